"""A trained model beside dipy's local tracking, from the same seeds (``scripts/compare_with_dipy.py``)."""
