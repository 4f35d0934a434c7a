"""Reads units back as systemd does, by the words of systemd.syntax(7), systemd.unit(5) and systemd.service(5)."""

from __future__ import annotations

import re

ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "s": " ", "\\": "\\", '"': '"', "'": "'"}


def settings_of(text: str) -> dict[str, dict[str, list[str]]]:
    """Values by key, by section; a value ends with its line unless that ends with a backslash."""
    sections: dict[str, dict[str, list[str]]] = {}
    here: dict[str, list[str]] = {}
    for line in text.replace("\\\n", " ").split("\n"):
        if line.startswith("[") and line.endswith("]"):
            here = sections.setdefault(line[1:-1], {})
        elif line:
            key, _, value = line.partition("=")
            here.setdefault(key, []).append(value.strip(" \t"))
    return sections


def words_of(value: str) -> list[str]:
    """The words of a value: unquoted, escapes and specifiers resolved."""
    words: list[str] = []
    word, quote, place = None, "", 0
    while place < len(value):
        letter = value[place]
        place += 1
        if quote and letter == quote:
            quote = ""
        elif not quote and letter in " \t\n\r":
            words, word = (words, None) if word is None else ([*words, word], None)
        elif not quote and letter in "\"'" and word is None:
            quote, word = letter, ""
        elif letter == "\\":
            found = re.compile(r"x([0-9a-fA-F]{2})|(.)", re.DOTALL).match(value, place)
            assert found, "a backslash at the end"
            word = (word or "") + (chr(int(found[1], 16)) if found[1] else ESCAPES[found[2]])
            place = found.end()
        else:
            word = (word or "") + letter
    assert not quote, "a quote without its end"
    return [specified(word) for word in ([*words, word] if word is not None else words)]


def specified(word: str) -> str:
    """``%%`` is a percent sign; any other specifier is one that was not meant."""
    assert not re.search(r"%(?!%)", word.replace("%%", "")), word
    return word.replace("%%", "%")


def command_of(line: str) -> list[str]:
    """What ExecStart runs: ``$$`` is a dollar sign, except in the program's path; no other variable is meant."""
    assert not re.search(r"(^|\s)\\?;(\s|$)", line), "a ; of its own begins another command"
    program, *arguments = words_of(line)
    assert program[0] == "/", "a letter before it would change how it is run"
    for argument in arguments:
        assert "$" not in argument.replace("$$", ""), argument
    return [program, *(argument.replace("$$", "$") for argument in arguments)]
