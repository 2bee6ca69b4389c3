"""Checks the licences of all dependencies against `allow` in deny.toml.

    cargo metadata --format-version 1 --locked | python3 scripts/licences.py

An SPDX expression passes if some choice among its ORs needs only allowed
licences. Exit code 1 with one line for each package that does not pass.
"""

import json
import pathlib
import re
import sys

DENY = pathlib.Path(__file__).resolve().parent.parent / "deny.toml"


def allowed():
    # A regular expression rather than tomllib, which Python has from 3.11 on.
    text = re.sub(r"#.*", "", DENY.read_text(encoding="utf-8"))
    entries = re.search(r"^allow\s*=\s*\[(.*?)\]", text, re.DOTALL | re.MULTILINE)
    if not entries:
        sys.exit(f"{DENY}: no list `allow`")
    return set(re.findall(r'"([^"]+)"', entries.group(1)))


class Expression:
    """SPDX: OR binds weaker than AND, AND weaker than WITH."""

    def __init__(self, text):
        # Cargo's older form `MIT/Apache-2.0` means OR.
        self.words = re.findall(r"[()]|[^\s()]+", text.replace("/", " OR "))

    def accept(self, word):
        found = bool(self.words) and self.words[0] == word
        if found:
            self.words.pop(0)
        return found

    def either(self, allow):
        passed = self.both(allow)
        while self.accept("OR"):
            passed = self.both(allow) or passed
        return passed

    def both(self, allow):
        passed = self.one(allow)
        while self.accept("AND"):
            passed = self.one(allow) and passed
        return passed

    def one(self, allow):
        if self.accept("("):
            passed = self.either(allow)
            if not self.accept(")"):
                raise ValueError("a parenthesis is not closed")
            return passed
        if not self.words:
            raise ValueError("it ends early")
        name = self.words.pop(0)
        if self.accept("WITH"):
            if not self.words:
                raise ValueError("it ends early")
            name += " WITH " + self.words.pop(0)
        return name in allow

    def passes(self, allow):
        passed = self.either(allow)
        if self.words:
            raise ValueError(f"unexpected `{self.words[0]}`")
        return passed


def main():
    allow = allowed()
    packages = json.load(sys.stdin)["packages"]
    refused = []
    for package in packages:
        licence = package["license"] or ""
        try:
            passed, why = Expression(licence).passes(allow), "not in deny.toml's list"
        except ValueError as error:
            passed, why = False, f"not understood: {error}"
        if not passed:
            refused.append(f"{package['name']} {package['version']}: `{licence}` {why}")
    if refused:
        sys.exit("\n".join(refused))
    print(f"{len(packages)} packages, all licences allowed")


if __name__ == "__main__":
    main()
