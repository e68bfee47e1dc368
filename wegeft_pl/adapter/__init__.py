"""The adapter: config, targets, sites, groups, files, merge and export."""

from wegeft_pl.adapter.adapter import Adapter, adapter_of
from wegeft_pl.adapter.config import AdapterConfig
from wegeft_pl.adapter.files import load_adapter
from wegeft_pl.adapter.fingerprint import Fingerprint
from wegeft_pl.adapter.groups import Group
from wegeft_pl.adapter.inject import inject
from wegeft_pl.adapter.merge import check_mergeable, merge, unmerge
from wegeft_pl.adapter.report import LayerReport, MergeReport
from wegeft_pl.adapter.sites import Site

__all__ = [
    "Adapter",
    "AdapterConfig",
    "Fingerprint",
    "Group",
    "LayerReport",
    "MergeReport",
    "Site",
    "adapter_of",
    "check_mergeable",
    "inject",
    "load_adapter",
    "merge",
    "unmerge",
]
