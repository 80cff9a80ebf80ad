"""Readable names for simulated artists and tracks."""

from __future__ import annotations

import numpy as np


def _words(text: str) -> list[str]:
    return text.split()


_FIRST = _words(
    """
    Ada Alma Amara Anton Aurel Beatrix Bruno Camille Carmen Cosmo Dario Delphine Edda Elio Esme Fabian Felix
    Flora Gideon Greta Hana Hugo Ida Ingrid Iris Jonas Juno Kaspar Kira Lale Leif Leonor Linus Lotte Lucia
    Magnus Maren Mateo Mila Milo Nadia Nils Noor Odette Orla Oscar Paloma Pia Quentin Rafael Ramona Rosa
    Ruben Saskia Selma Silas Sven Tamsin Theo Tilda Ugo Vera Viktor Wanda Yara Yusuf Zadie Zeno
    """
)
_LAST = _words(
    """
    Abendroth Adeyemi Almond Arden Ashby Bellweather Bergström Blackwood Caldera Castellan Corrigan Dahl
    Delacroix Duval Eklund Falk Farrow Fontaine Gallo Grey Halloran Hartmann Hawke Holloway Idris Jansen
    Kestrel Kowalski Lark Lindqvist Lockhart Maddox Marchetti Mercer Moreau Nakamura Novak Okafor Oduya
    Orlov Pemberton Quill Rainier Reyes Rivers Sandoval Santos Sato Sinclair Sorel Stone Sundberg Tanaka
    Thorne Underhill Valdez Vance Vesper Wilder Winter Woodrow Yamada Zielinski
    """
)
_ADJECTIVES = _words(
    """
    Amber Ancient Blue Borrowed Bright Broken Burning Careless Copper Crimson Crooked Distant Early Electric
    Empty Endless Faded Fallen First Foreign Frozen Gentle Gilded Golden Half-Lit Hidden Hollow Honest Idle
    Invisible Ivory Last Late Lonely Lost Lucky Midnight Modern Narrow Neon New Northern Open Pale Paper
    Patient Perfect Plastic Quiet Restless Rusted Salt Secret Silent Silver Simple Slow Small Southern
    Stolen Strange Sudden Sunday Tender Velvet Violet Wandering Warm Western White Wild Winter Wooden Young
    """
)
_NOUNS = _words(
    """
    Airport Anchor Arrow Autumn Avenue Balcony Bell Bird Bridge Canyon Carousel Cathedral Circle City Clock
    Coast Comet Compass Corner Country Dancer Daylight Desert Diamond Door Dream Echo Ember Engine Feather
    Field Fire Flower Forest Fountain Garden Ghost Glacier Harbour Heart Highway Horizon Hour Hotel House
    Island Kite Ladder Lake Lantern Letter Light Lighthouse Machine Map Marble Market Meadow Memory Mirror
    Mountain Night Ocean Orchard Parade Picture Planet Postcard Promise Radio Rain River Road Room Rose
    Satellite Season Shadow Shore Signal Sky Snow Song Spark Stair Star Station Stranger Street Summer
    Swallow Telephone Thunder Tide Tower Town Train Valley Wave Weather Willow Window Wind Wolf Wonder
    """
)
_VERBS = _words(
    """
    Calling Carry Chasing Counting Crossing Find Follow Forget Hold Keep Leaving Losing Meet Remember
    Outrunning Take Turn Finding Wake Watching
    """
)
_ENDINGS = (
    "Away", "Again", "Tonight", "Home", "Tomorrow", "for You", "with Me", "in the Dark", "at Dawn", "Somehow",
)  # fmt: skip


def artist_names(random: np.random.Generator, number: int) -> list[str]:
    """Generates distinct names of people, bands and duos; beyond 11,000, a number is appended."""
    people = [f"{first} {last}" for first in _FIRST for last in _LAST]
    bands = [f"{adjective} {noun}" for adjective in _ADJECTIVES for noun in _NOUNS]
    bands = [name if at % 3 else f"The {name}s" for at, name in enumerate(bands)]
    names = people + bands
    order = random.permutation(len(names))
    rounds = (number + len(names) - 1) // len(names)
    numbered = [f"{names[at]}{f' {turn + 1}' if turn else ''}" for turn in range(rounds) for at in order]
    return numbered[:number]


def track_titles(random: np.random.Generator, number: int) -> list[str]:
    """Generates track titles; a few are duplicates, as in real catalogs."""
    kind = random.random(number)
    adjectives, nouns, others, verbs, endings = (
        random.integers(0, len(words), number) for words in (_ADJECTIVES, _NOUNS, _NOUNS, _VERBS, _ENDINGS)
    )
    titles = []
    for at in range(number):
        adjective, noun, other = _ADJECTIVES[adjectives[at]], _NOUNS[nouns[at]], _NOUNS[others[at]]
        verb, ending = _VERBS[verbs[at]], _ENDINGS[endings[at]]
        if kind[at] < 0.35:
            titles.append(f"{adjective} {noun}")
        elif kind[at] < 0.55:
            titles.append(f"{noun} of the {other}")
        elif kind[at] < 0.75:
            titles.append(f"{verb} the {adjective} {noun}")
        elif kind[at] < 0.90:
            titles.append(f"{verb} {noun} {ending}" if kind[at] < 0.80 else f"{verb} the {noun} {ending}")
        else:
            titles.append(f"{noun} {ending}")
    return titles
