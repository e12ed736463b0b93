"""Reading the model: greedy decoding, log-likelihoods, contexts shared by many questions."""

from loramem.inference.generate import Generation, Request, generate
from loramem.inference.loglik import Score, ScoreRequest, loglikelihood
from loramem.inference.prefix import PrefixCache

__all__ = ["Generation", "PrefixCache", "Request", "Score", "ScoreRequest", "generate", "loglikelihood"]
