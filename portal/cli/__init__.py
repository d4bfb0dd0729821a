"""The `casement` command. It speaks the API only: nothing here imports Django, or anything else of the portal."""
