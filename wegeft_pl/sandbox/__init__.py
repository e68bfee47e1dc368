"""Runs programs that a model wrote, under limits; contains accidents and cheap tricks, and is no security boundary."""

from wegeft_pl.sandbox.limits import Limits
from wegeft_pl.sandbox.run import run_trial, run_trials
from wegeft_pl.sandbox.trial import Outcome, Trial, Verdict

__all__ = ["Limits", "Outcome", "Trial", "Verdict", "run_trial", "run_trials"]
