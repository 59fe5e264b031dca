"""Waveforms in, log-mel and filterbank features out."""
