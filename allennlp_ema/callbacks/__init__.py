from allennlp_ema.callbacks.random_state import RandomStateCallback

__all__ = ["RandomStateCallback"]
