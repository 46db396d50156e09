"""English sentences from a small grammar: as many as wanted, plain, grammatical, and rich in sounds.

The grammar and the words are our own. They are chosen to bring every English phone into many contexts, not to
make sense: "seven thirsty judges measured the yellow bridge" is a fine sentence here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from numpy.random import Generator

T = TypeVar("T")

SHORTEST, LONGEST = 3, 16  # words in a sentence

_WORDS = {
    "name": """Anna Beth Joan Ruth Vivian Zoe Charlotte Judith Yvonne Heather Shirley Olivia Rachel Claire
        Margaret Thomas George Arthur Oliver Jack Hugh Victor Philip Zachary Theo Graham Boyd Walter
        Jeremy Ian Quentin Noah""",
    "place": """London Boston Virginia Athens Cairo Bath Chicago Norway Persia Zurich York Dover Geneva Asia
        Jamaica Oxford Delhi Fiji Ghana Houston Kew Leith Thule""",
    "noun": """bridge garden village river mountain engine picture letter window kitchen teacher doctor
        farmer judge sailor painter soldier child mother father brother cousin queen king lawyer
        baker thief witch nurse boy girl bird fish horse goose mouse sheep tiger zebra yak wolf owl
        fox beetle butterfly moth spider apple orange onion carrot cherry potato pear thistle oak
        birch leaf root flower grass thorn chair table cupboard shelf bath mirror carpet curtain
        candle lamp clock watch basket bottle jug jar cup saucer plate spoon fork knife thimble
        needle thread cloth glove shirt jacket shoe boot belt feather boat ship anchor harbour
        island beach shore cliff cave valley meadow forest path road station train carriage wagon
        wheel hammer ladder shovel bucket rope chain lock key door roof tower chimney church castle
        drum violin trumpet piano flute song poem story rumour question answer lesson mixture
        machine magazine treasure vision measure garage voyage journey joke jewel ghost dragon giant
        cloud storm thunder snow shadow fire smoke ashes stone marble iron copper silver gold paper
        pencil book page map flag coin button cotton loch hour flower tower""",
    "mass": """water milk butter honey bread cheese porridge soup sugar salt pepper tea coffee wool silk
        leather timber coal gravel mud sunshine moonlight laughter silence music advice courage
        patience leisure luck knowledge furniture weather rubbish oil""",
    "adjective": """young old tall short huge tiny heavy light thick thin rough smooth sharp blunt loud quiet
        rude polite happy sad angry jealous thirsty hungry lazy busy clever foolish gentle fierce
        brave shy strange usual casual purple yellow orange blue green brown white black grey golden
        broken wooden frozen hollow narrow wide deep shallow fresh stale sour sweet bitter warm cool
        damp dry dusty shiny dull bright pale curious serious famous ordinary northern southern
        cheap precious perfect absurd loyal royal awkward pure""",
    "transitive": """watched followed carried painted measured borrowed noticed remembered pushed pulled lifted
        dropped caught threw chose found lost sold bought brought stole kept hid broke fixed washed
        polished repaired admired avoided enjoyed praised teased judged chased fetched described
        copied wrote read drew shook weighed opened closed covered buried burned froze destroyed
        joined divided gathered bothered thanked thought-about looked-for laughed-at yearned-for""",
    "intransitive": """laughed smiled shouted whispered coughed yawned slept woke danced jumped vanished arrived
        departed hesitated waited trembled sighed sneezed argued agreed worked rested wandered
        stumbled disappeared giggled prayed sang cheered froze""",
    "adverb": """slowly quickly quietly loudly gently roughly bravely foolishly usually casually rarely often
        always never again together yesterday today outside everywhere perhaps suddenly early
        thoroughly beautifully cautiously joyfully""",
    "preposition": """behind beneath beside between under over above near through across around without beyond
        against along inside towards past""",
    "determiner": "the a this that every each another some-other my your his her our their",
    "number": """two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen
        seventeen eighteen nineteen twenty thirty forty fifty sixty seventy eighty ninety""",
    "unit": "one two three four five six seven eight nine",
    "ten": "twenty thirty forty fifty sixty seventy eighty ninety",
    "hour": "one two three four five six seven eight nine ten eleven noon midnight",
    "day": "Monday Tuesday Wednesday Thursday Friday Saturday Sunday",
    "month": "January February March April May June July August September October November December",
    "plural": """judges witches thieves boxes churches horses roses edges oxen geese children women fathers
        brothers months clothes books maps cats ducks boats desks wasps gifts cliffs moths paths
        hands friends songs rings drums films bells bears chairs stars fires towers boys cows pies
        days shoes views ideas""",
    "verb": """see find hear choose catch carry join measure push reach wash judge bother avoid enjoy watch
        give bring draw know show use pour share cure tour hire hear steer""",
    "linker": "and but while because before after until although so whenever",
    "speech": "said thought believed heard knew hoped guessed feared swore",
    "auxiliary": "will would could should might must can",
    "question": "why how when where",
}

# A part in capitals is expanded further, one in small letters is drawn from the words, `=x` is the word x itself.
_GRAMMAR = {
    "SENTENCE": (
        ["THING", "DEED"],
        ["THING", "DEED"],
        ["name", "DEED"],
        ["WHEN", "THING", "DEED"],
        ["THING", "DEED", "linker", "WHO", "DEED"],
        ["WHO", "speech", "=that", "THING", "DEED"],
        ["question", "auxiliary", "WHO", "verb", "THING"],
        ["WHO", "auxiliary", "verb", "THING", "PLACE"],
        ["=there", "=were", "MANY", "PLACE"],
        ["=neither", "name", "=nor", "name", "auxiliary", "verb", "MANY"],
        ["=please", "verb", "THING", "=and", "verb", "MANY"],
        ["MANY", "=and", "mass", "=are", "adjective"],
    ),
    "WHO": (["name"], ["THING"], ["=she"], ["=he"], ["=they"], ["=you"], ["=we"]),
    "THING": (
        ["determiner", "noun"],
        ["determiner", "adjective", "noun"],
        ["determiner", "adjective", "adjective", "noun"],
        ["=the", "noun", "=of", "place"],
        ["=the", "adjective", "mass"],
        ["MANY"],
    ),
    "MANY": (
        ["number", "plural"],
        ["number", "adjective", "plural"],
        ["ten", "unit", "plural"],
        ["unit", "=hundred", "=and", "ten", "plural"],
        ["=these", "adjective", "plural"],
    ),
    "DEED": (
        ["transitive", "THING"],
        ["transitive", "THING", "PLACE"],
        ["transitive", "mass", "adverb"],
        ["adverb", "transitive", "THING"],
        ["intransitive", "PLACE"],
        ["intransitive", "adverb"],
        ["intransitive", "adverb", "WHEN"],
    ),
    "PLACE": (
        ["preposition", "THING"],
        ["preposition", "=the", "noun"],
        ["=in", "place"],
        ["preposition", "=the", "noun", "=in", "place"],
    ),
    "WHEN": (
        ["=on", "day"],
        ["=in", "month"],
        ["=at", "hour"],
        ["=at", "hour", "=thirty", "unit"],
        ["=in", "=nineteen", "ten", "unit"],
    ),
}
_VOCABULARY = {part: words.split() for part, words in _WORDS.items()}


def vocabulary() -> list[str]:
    """Every word that a sentence can hold, sorted."""
    parts = [word for words in _VOCABULARY.values() for word in words]
    parts += [part[1:] for rules in _GRAMMAR.values() for rule in rules for part in rule if part[0] == "="]
    return sorted({word for phrase in parts for word in phrase.split("-")} | {"an"})


def sentence(generator: Generator) -> str:
    """One sentence of `SHORTEST` to `LONGEST` words, with a capital and a full stop or question mark."""
    words: list[str] = []
    while not SHORTEST <= len(words) <= LONGEST:
        words = " ".join(_expand("SENTENCE", generator)).replace("-", " ").split()
    words = [_article(word, after) for word, after in zip(words, [*words[1:], ""], strict=True)]
    text = " ".join(words)
    return f"{text[0].upper()}{text[1:]}{'?' if words[0] in _VOCABULARY['question'] else '.'}"


def _expand(part: str, generator: Generator) -> list[str]:
    if part.startswith("="):
        return [part[1:]]
    if part in _VOCABULARY:
        return [_pick(_VOCABULARY[part], generator)]
    rule = _pick(_GRAMMAR[part], generator)
    return [word for part in rule for word in _expand(part, generator)]


def _pick(choices: Sequence[T], generator: Generator) -> T:
    return choices[int(generator.integers(len(choices)))]


def _article(word: str, after: str) -> str:
    """`a` before a sound like a vowel's becomes `an`."""
    return "an" if word == "a" and after[:1].lower() in "aeiou" and not after.startswith("us") else word


def passage(generator: Generator, words: int) -> str:
    """Sentences one after the other until there are at least `words` words."""
    text = sentence(generator)
    while len(text.split()) < words:
        text = f"{text} {sentence(generator)}"
    return text


def transcript(text: str) -> str:
    """`text` as LibriSpeech writes it: capitals, no punctuation."""
    return "".join(character for character in text.upper() if character.isalpha() or character == " ")
