"""Training: banked AdamW, packing, and the one training loop."""

from loramem.training.loop import Trained, TrainJob, bucket_length, train_pack
from loramem.training.packing import plan_packs

__all__ = ["TrainJob", "Trained", "bucket_length", "plan_packs", "train_pack"]
