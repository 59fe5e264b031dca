"""Parts of `make_real_corpus.py`: the texts, and the speech that is made of them."""
