"""Training: banked AdamW, objectives, memory, and the one training loop."""

from loramem.training.job import Trained, TrainJob, bucket_length
from loramem.training.loop import train_modules
from loramem.training.teacher import Teacher

__all__ = ["Teacher", "TrainJob", "Trained", "bucket_length", "train_modules"]
