"""The page of `web_demo.py`: which models, which clip, its pictures, the texts, the layout."""
