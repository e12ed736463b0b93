"""Reading the model: greedy decoding, log-likelihoods, a context shared by many questions."""

from loramem.inference.generate import Generation, Request, generate
from loramem.inference.loglik import Score, ScoreRequest, loglikelihood
from loramem.inference.prefix import generate_shared, loglikelihood_shared

__all__ = [
    "Generation",
    "Request",
    "Score",
    "ScoreRequest",
    "generate",
    "generate_shared",
    "loglikelihood",
    "loglikelihood_shared",
]
