"""Is every clip of an annotation what it says it is?"""
