"""What a module does to text it has no business with: how far it moves the base's predictions.

The distance is the Kullback-Leibler divergence KL(base || module) of the whole next-token distributions, not a difference of
losses on one continuation: a module that moves probability between tokens that the text does not happen to hold is seen too.
"""

from __future__ import annotations

import torch
from torch import Tensor


def kl_nats(base_logits_TV: Tensor, module_logits_TV: Tensor) -> Tensor:
    """KL(base || module) = sum over the vocabulary of p (ln p - ln q), in nats, exactly and for every token.

    It is 0 where both give the same distribution and never below 0 but for rounding, which is not cut away here. Tokens that
    the base gives no probability (logit -inf) add nothing; one that only the module rules out makes it infinite.

    Args:
        base_logits_TV: Logits of the base, `[T, V]`: p is their softmax.
        module_logits_TV: Logits with the module on, of the same shape: q is their softmax.

    Returns:
        `[T]`, in double precision where an input is, else in fp32 (half precision is widened first: its softmax over a large
        vocabulary loses the small terms that a divergence is made of).

    >>> kl_nats(torch.tensor([[0.0, 0.0]]), torch.tensor([[0.0, 0.0]])).tolist()
    [0.0]
    """
    assert base_logits_TV.shape == module_logits_TV.shape, (base_logits_TV.shape, module_logits_TV.shape)
    kind = torch.promote_types(
        torch.promote_types(base_logits_TV.dtype, module_logits_TV.dtype), torch.float32
    )
    log_p_TV = base_logits_TV.to(kind).log_softmax(-1)
    log_q_TV = module_logits_TV.to(kind).log_softmax(-1)
    p_TV = log_p_TV.exp()
    terms_TV = torch.where(p_TV > 0, p_TV * (log_p_TV - log_q_TV), 0.0)
    return terms_TV.sum(-1)
