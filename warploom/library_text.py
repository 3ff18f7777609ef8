"""English text that every machine with Python has: what its standard library says of itself.

    python -m warploom.library_text [--part calibration|evaluation] > text

Docstrings of modules, classes and functions, in alphabetical order; the same Python version gives the same text. The
two parts share no module.
"""

from __future__ import annotations

import argparse
import importlib
import inspect

CALIBRATION = ("collections", "contextlib", "csv", "functools", "json", "logging", "shutil", "socketserver", "zipfile")
EVALUATION = (
    "argparse", "ast", "asyncio", "bisect", "calendar", "cmd", "codecs", "concurrent.futures", "configparser", "copy",
    "datetime", "decimal", "difflib", "doctest", "email", "email.message", "enum", "fractions", "ftplib", "getopt",
    "gettext", "gzip", "hashlib", "heapq", "html.parser", "http.client", "http.cookiejar", "http.server", "imaplib",
    "inspect", "ipaddress", "locale", "mailbox", "mimetypes", "multiprocessing.pool", "nntplib", "optparse", "os",
    "pathlib", "pdb", "pickle", "pickletools", "plistlib", "pprint", "profile", "random", "sched", "secrets", "shelve",
    "smtplib", "statistics", "string", "subprocess", "tarfile", "tempfile", "textwrap", "threading", "timeit", "trace",
    "turtle", "typing", "unittest", "unittest.mock", "urllib.parse", "urllib.request", "uuid", "warnings", "wave",
    "weakref", "xml.dom.minidom", "xml.etree.ElementTree", "xmlrpc.client",
)  # fmt: skip
PARTS = {"calibration": CALIBRATION, "evaluation": EVALUATION}


def library_text(part: str) -> str:
    """Return the documentation of the modules of a part."""
    found = []
    for name in PARTS[part]:
        try:
            module = importlib.import_module(name)
        except ImportError:
            continue  # removed from later versions of Python
        found += [text for text in (inspect.getdoc(thing) for thing in _documented(module)) if text and len(text) > 80]
    return "\n\n".join(dict.fromkeys(found))


def _documented(module: object) -> list[object]:
    """Return a module, its classes and functions, and the methods of its classes."""
    name = getattr(module, "__name__", "")
    members = [thing for _, thing in sorted(vars(module).items()) if getattr(thing, "__module__", None) == name]
    classes = [thing for thing in members if inspect.isclass(thing)]
    methods = [method for kind in classes for _, method in sorted(vars(kind).items()) if inspect.isfunction(method)]
    return [module, *members, *methods]


def main() -> None:
    """Print a part."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=PARTS, default="evaluation")
    print(library_text(parser.parse_args().part))


if __name__ == "__main__":
    main()
