"""The console's benchmark: `screens.c` is both its ends, `doors.py` what stands between, `measure.py` what is asked."""
