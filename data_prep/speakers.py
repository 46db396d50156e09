"""English sentences from a small grammar: as many as wanted, plain, grammatical, and rich in sounds.

The grammar and the words are our own. They are chosen to bring every English phone into many contexts, not to
make sense: "seven thirsty judges measured the yellow bridge" is a fine sentence here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
from jaxtyping import Float32, Int16
from numpy import ndarray
from numpy.random import Generator

from cpc.audio.decode import SAMPLE_RATE, resample, to_int16
from cpc.io import write_text
from cpc.seeding import numpy_generator

from . import espeak

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


# --- The speakers of the embedded corpus: their voices, their recording sessions, and one utterance of a session.


CHAPTERS = 3  # recording sessions of each speaker
TRAIN, VALID, TEST = SUBSETS = ("train-synthetic", "dev-synthetic", "test-synthetic")

_DIALECTS = (
    *("en", "en-us", "en-us-nyc", "en-029"),
    *("en-gb-scotland", "en-gb-x-gbclan", "en-gb-x-gbcwmd", "en-gb-x-rp"),
)
# Natural enough, and without echo (it would blur every boundary), whisper or vocoder.
_VARIANTS = {
    "F": "Andrea Annie aunty belinda f1 grandma linda steph steph2",
    "M": """Andy Denis Diogo Gene Jacky Lee Mario Michael Mike Nguyen Storm boris ed gustave ian iven4 john m1 m3 m4
        m5 m6 m7 m8 marcelo max michel norbert paul quincy rob robert travis victor""",
}


class Speaker(NamedTuple):
    """One voice of the corpus."""

    id: str
    sex: str
    subset: str
    voice: espeak.Voice


class Chapter(NamedTuple):
    """One recording session of a speaker: in another one the same words would sound a little different."""

    id: str
    speaker: Speaker
    pace: int  # words a minute, added to the speaker's own
    level: float  # dB: power of the speech re full scale
    snr: float  # dB
    colour: float  # of the noise: pole of a low-pass filter, of a high-pass one where negative

    @property
    def folder(self) -> Path:
        return Path("audio", self.speaker.subset, self.speaker.id, self.id)


class Utterance(NamedTuple):
    """One utterance: audio at 16 kHz, its words, and the (onset, offset, name) of its phones, in seconds."""

    text: str
    samples: Int16[ndarray, " sample"]
    phones: list[tuple[float, float, str]]


def make_speakers(count: int, seed: int) -> list[Speaker]:
    """Women and men in turn, each of another variant, dialect, pitch and pace; the last 25% are held out."""
    test, valid = max(1, round(0.15 * count)), max(1, round(0.1 * count))
    subsets = [TRAIN] * (count - test - valid) + [VALID] * valid + [TEST] * test
    return [_speaker(place, subset, seed) for place, subset in enumerate(subsets)]


def _speaker(place: int, subset: str, seed: int) -> Speaker:
    sex, turn = "FM"[place % 2], place // 2
    shared = numpy_generator(seed, "variants", sex)  # the same draw for every speaker of this sex
    variants = shared.permutation(_VARIANTS[sex].split()).tolist()
    dialects = shared.integers(len(_DIALECTS), size=len(variants))
    lap, variant = divmod(turn, len(variants))  # a variant comes again only when all are used, in another dialect
    dialect = _DIALECTS[(int(dialects[variant]) + lap) % len(_DIALECTS)]
    draw = numpy_generator(seed, "speaker", place)
    rate, pitch, pitch_range = (int(draw.integers(*ends)) for ends in ((145, 185), (35, 66), (35, 75)))
    voice = espeak.Voice(f"{dialect}+{variants[variant]}", rate, pitch, pitch_range)
    return Speaker(str(1001 + place), sex, subset, voice)


def chapters(speaker: Speaker, seed: int) -> list[Chapter]:
    """The recording sessions of a speaker."""
    return [_chapter(f"{speaker.id}{number}", speaker, seed) for number in range(1, CHAPTERS + 1)]


def _chapter(id: str, speaker: Speaker, seed: int) -> Chapter:
    draw = numpy_generator(seed, "chapter", id)
    level, snr, colour = draw.uniform(-28, -18), draw.uniform(31, 44), draw.uniform(-0.3, 0.9)
    return Chapter(id, speaker, int(draw.integers(-8, 9)), level, snr, colour)


def utterance(chapter: Chapter, id: str, seed: int) -> Utterance:
    """Speak and record one utterance of about 2 to 12 s: a pure function of the seed and the id."""
    draw = numpy_generator(seed, "utterance", id)
    text = passage(draw, int(draw.integers(5, 19)))
    voice = chapter.speaker.voice
    speech = espeak.speak(text, voice._replace(rate=voice.rate + chapter.pace))
    before, after = draw.integers(espeak.SAMPLE_RATE // 10, espeak.SAMPLE_RATE // 3, size=2).tolist()
    quiet = espeak.add_silence(speech, before, after)
    samples = to_int16(_record(quiet.samples, chapter, draw))
    return Utterance(text, samples, _in_seconds(espeak.segment(quiet), len(samples) / SAMPLE_RATE))


def _record(speech: Int16[ndarray, " native"], chapter: Chapter, draw: Generator) -> Float32[ndarray, " sample"]:
    """Resample to 16 kHz, bring to the session's level, and add its noise. The peak stays below full scale."""
    clean = resample(speech.astype(np.float32) / np.float32(32768), espeak.SAMPLE_RATE, SAMPLE_RATE)
    power = float(np.sqrt(np.mean(np.square(clean))))
    level = _decibels(chapter.level + draw.uniform(-1.5, 1.5))
    gain = min(level / power, 0.9 / float(np.abs(clean).max()))
    noise = gain * power * _decibels(-chapter.snr - draw.uniform(-1, 1))
    return np.float32(gain) * clean + np.float32(noise) * _noise(len(clean), chapter.colour, draw)


def _decibels(level: float) -> float:
    return float(10 ** (level / 20))


def _noise(samples: int, colour: float, draw: Generator) -> Float32[ndarray, " sample"]:
    """Noise of unit power, through the first 12 terms of a one-pole filter."""
    kernel = np.power(colour, np.arange(12)).astype(np.float32)
    kernel /= np.linalg.norm(kernel)
    white = draw.standard_normal(samples + len(kernel) - 1, dtype=np.float32)
    return np.convolve(white, kernel, "valid").astype(np.float32)


def _in_seconds(phones: list[espeak.Phone], end: float) -> list[tuple[float, float, str]]:
    """Phones in seconds; the last one lasts to the `end` of the resampled audio, which rounding may have moved."""
    edges = [phone.start / espeak.SAMPLE_RATE for phone in phones] + [end]
    return [(*times, phone.name) for times, phone in zip(pairwise(edges), phones, strict=True)]


def write_tables(out: Path, people: Sequence[Speaker], minutes: Mapping[Chapter, float]) -> None:
    """SPEAKERS.TXT and CHAPTERS.TXT as LibriSpeech has them."""
    lines = [";ID  |SEX| SUBSET           |MINUTES| NAME\n"]
    for who in people:
        spoken = sum(length for chapter, length in minutes.items() if chapter.speaker == who)
        name = f"eSpeak NG {who.voice.name}, pitch {who.voice.pitch} of range {who.voice.pitch_range}"
        lines.append(f"{who.id:<5}| {who.sex} | {who.subset:<17}| {spoken:5.2f} | {name}\n")
    sessions = [";ID    |READER|MINUTES| SUBSET           | PROJ.|BOOK ID| CH. TITLE | PROJECT TITLE\n"]
    for number, (chapter, length) in enumerate(minutes.items()):
        who, title = chapter.speaker, f"Session {number % CHAPTERS + 1}"
        sessions.append(
            f"{chapter.id:<7}| {who.id:<5}| {length:5.2f} | {who.subset:<17}| 0    | 0     | {title} | Synthetic\n"
        )
    write_text(out / "SPEAKERS.TXT", "".join(lines))
    write_text(out / "CHAPTERS.TXT", "".join(sessions))
