"""Disk images: build them from recipes, inspect and import foreign ones. A leaf: no Django, no Celery, no portal."""
