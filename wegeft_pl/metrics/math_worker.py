"""A process of its own that asks math-verify whether two answers are equal; run as a script, never imported.

Reads one JSON array a line, ``[answer, reference]``, and writes ``true`` or ``false`` for each. It imports nothing but
math-verify, so that it starts fast and a hostile expression has only itself to harm.
"""

import json
import logging
import sys

#: Most address space in bytes: a power tower may want more memory than a machine has.
MEMORY_LIMIT_BYTES = 4 * 2**30


def limit_memory() -> None:
    """Caps this process's memory, where the system can."""
    try:
        import resource
    except ModuleNotFoundError:  # Windows
        return
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_LIMIT_BYTES, MEMORY_LIMIT_BYTES))


def main() -> None:
    """Answers until its input ends."""
    # Its own timeouts are signals, which an operation inside one long C call does not notice, and it says on the log
    # that they are off: the parent process keeps the time.
    logging.disable(logging.CRITICAL)
    from math_verify import LatexExtractionConfig, parse, verify
    from math_verify.parser import ExprExtractionConfig

    configs = (LatexExtractionConfig(boxed_match_priority=0), ExprExtractionConfig())
    limit_memory()
    print("ready", flush=True)
    for line in sys.stdin:
        answer, reference = json.loads(line)
        try:
            pair = [parse(f"\\boxed{{{text}}}", configs, parsing_timeout=None) for text in (reference, answer)]
            equal = all(pair) and verify(*pair, timeout_seconds=None)
        except (Exception, MemoryError):  # whatever a generated text breaks in there, it is not a right answer
            equal = False
        print(json.dumps(bool(equal)), flush=True)


if __name__ == "__main__":
    main()
