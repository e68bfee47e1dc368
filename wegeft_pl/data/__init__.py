"""Data modules: rows in, padded batches out."""

from wegeft_pl.data.text.base import TextDataModule
from wegeft_pl.data.text.gsm8k import GSM8KDataModule
from wegeft_pl.data.text.plain_text import PlainTextDataModule
from wegeft_pl.data.text.prompted import PromptedDataModule

__all__ = ["GSM8KDataModule", "PlainTextDataModule", "PromptedDataModule", "TextDataModule"]
