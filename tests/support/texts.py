"""Random texts with changed copies whose similarity is known."""

import random

LETTERS = {"zh": [chr(c) for c in range(0x4E00, 0x4E00 + 3000)], "en": list("abcdefghijklmnopqrstuvwxyz")}
WORDS = (
    "press",
    "hold",
    "reset",
    "button",
    "lamp",
    "cable",
    "engine",
    "cover",
    "screw",
    "filter",
    "水",
    "heat",
)


def grams(text: str) -> set[str]:
    return {text[i : i + 5] for i in range(max(len(text) - 4, 1))}


def similarity(a: str, b: str) -> float:
    one, two = grams(a), grams(b)
    return len(one & two) / len(one | two)


def changed(rng: random.Random, text: str, letters: list[str], times: int) -> str:
    characters = list(text)
    for index in rng.sample(range(len(text)), times):
        characters[index] = rng.choice(letters)
    return "".join(characters)


def planted(language: str, number: int, seed: int) -> list[tuple[str, str, float]]:
    """Texts and their changed copies with similarities between about 0.3 and 1."""
    rng = random.Random(seed)
    letters = LETTERS[language]
    cases = []
    for _ in range(number):
        text = "".join(rng.choices(letters, k=rng.randint(80, 300)))
        copy = changed(rng, text, letters, rng.randint(1, max(2, len(text) // 20)))
        cases.append((text, copy, similarity(text, copy)))
    return cases
