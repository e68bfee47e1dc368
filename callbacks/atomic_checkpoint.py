"""How a checkpoint of Lightning's callback comes into its place: whole, read back, finite, or not at all."""

from __future__ import annotations

from pathlib import Path

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities import rank_zero_warn

from wegeft_pl.callbacks.checkpoint_folder import temporary_name
from wegeft_pl.callbacks.checkpoint_io import check_written, put_in_place


class NotFiniteError(ValueError):
    """A checkpoint would hold NaN or infinite values."""


class NotWrittenError(OSError):
    """A checkpoint could not be written."""


class AtomicCheckpoint(ModelCheckpoint):
    """Writes each file beside its place, reads it back, compares and renames it; all ranks stop where that fails.

    Raises:
        NotFiniteError: while saving, a checkpoint holds NaN or infinite values.
        NotWrittenError: while saving, a file cannot be written, or is not what was to be written.
    """

    _checked = False

    def _save_checkpoint(self, trainer: Trainer, filepath: str) -> None:
        final, temporary = Path(filepath), temporary_name(Path(filepath))
        failure: tuple[str, bool] | None = None
        try:
            try:
                super()._save_checkpoint(trainer, str(temporary))
            except OSError as error:
                failure = _said(error), False
                trainer.strategy.barrier("Trainer.save_checkpoint")  # where the other ranks wait for this one
            if trainer.is_global_zero and failure is None:
                failure = self._put_in_place(temporary, final, trainer.lightning_module)
        finally:
            if trainer.is_global_zero:
                temporary.unlink(missing_ok=True)
        failure = trainer.strategy.broadcast(failure)  # all ranks stop, or none would notice the other's end
        if failure is not None:
            self._refuse(final, trainer.global_step, *failure)
        self._last_checkpoint_saved = filepath

    def _put_in_place(self, temporary: Path, final: Path, module: LightningModule) -> tuple[str, bool] | None:
        """Checks and renames a file.

        Returns:
            What is wrong, and whether it is values that are not finite; None where all is well.
        """
        try:
            frozen = check_written(temporary, module)
            put_in_place(temporary, final)
        except FloatingPointError as error:
            return str(error), True
        except OSError as error:
            return _said(error), False
        if frozen and not self._checked:
            rank_zero_warn(
                f"checkpoints hold {len(frozen)} frozen tensors of the base (first: {frozen[0]}) and are as large as "
                f"it; call super().on_save_checkpoint(checkpoint) in {type(module).__name__}"
            )
        self._checked = True
        return None

    def _refuse(self, final: Path, step: int, problem: str, is_not_finite: bool) -> None:
        kept = "the one there is kept" if final.exists() else "there is none yet"
        text = f"no checkpoint {final} at step {step}, {kept}: {problem}; "
        if is_not_finite:
            raise NotFiniteError(f"{text}lower the learning rate, or clip with --trainer.gradient_clip_val 1.0")
        raise NotWrittenError(f"{text}make room or make the folder writable, then go on with --ckpt_path last")


def _said(error: OSError) -> str:
    return error.strerror or str(error)
