"""One door for every setting: YAML files, `key=value`, checkpoints and mappings become one frozen dataclass.

A recipe is a small YAML mapping over a `base:` (another file, or the name of a preset). Settings that are wrong
are all reported at once, each with its file, key, value and rule, and the nearest key that exists.
"""

import dataclasses
import difflib
import re
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml
from pydantic import ConfigDict, TypeAdapter, ValidationError

T = TypeVar("T")
Tree = dict[str, Any]
STRICT = ConfigDict(extra="forbid")
PRESETS = Path(__file__).parent / "presets"
# Keys as they were called before version 0.2: a recipe that has one is told the new name, a saved run is read by it.
RENAMED = {
    "windows.samples": "data.window_size",
    "windows.batch": "data.batch_size",
    "windows.one_speaker": "data.same_speaker_batches",
    "data.held_out": "data.val_fraction",
    "loss.steps": "loss.prediction_steps",
    "loss.group": "loss.group_size",
    "loss.gather": "loss.gather_distributed",
    "loss.learnt": "loss.learnable",
    "loss.same": "loss.positives",
    "loss.negatives.count": "loss.negatives.num_negatives",
    "loss.negatives.across": "loss.negatives.cross_sequence_fraction",
    "optim.warmup": "optim.warmup_steps",
    "optim.floor": "optim.min_lr_ratio",
    "optim.clip": "optim.max_grad_norm",
    "training.steps": "training.max_steps",
    "training.accumulate": "training.gradient_accumulation_steps",
    "training.hold": "training.gpu_cache_fraction",
}
RENAMED_KINDS = {
    "labelled": "supervised",
    "utterance": "instance",
    "polarity": "polarity_inversion",
    "pitch": "pitch_shift",
    "tempo": "time_stretch",
    "synthetic_room": "synthetic_reverb",
    "measured_room": "measured_reverb",
}


REMOVED = {  # of which kind of loss, and what to do instead
    ("cpc", "loss.queue"): "frames of past batches are no longer negatives of loss.kind=cpc; remove it, or give "
    "loss.negatives={kind: all} and a larger loss.group_size",
}


class InputError(ValueError):
    """A mistake that the user can fix: the command line prints it as one line, without a traceback."""


def load(schema: type[T], source: str | Path | Mapping[str, Any], overrides: Sequence[str] = ()) -> T:
    """Build a `schema` from a YAML file (or preset name, or mapping) and `key=value` overrides.

    Raises:
        InputError: with one line for every setting that is wrong.
    """
    origin: dict[str, str] = {}
    if isinstance(source, Mapping):
        settings = _merge({}, dict(source), "settings", origin)
    else:
        settings = _merge({}, _read(source, origin, ()), str(source), None)
    for override in overrides:
        settings = _merge(settings, _parse_override(override), "command line", origin)
    return validate(schema, settings, origin)


def validate(schema: type[T], settings: Tree, origin: Mapping[str, str] | None = None) -> T:
    """Turn nested settings into a `schema`, defaults filled in; `origin` tells which file set which key."""
    try:
        made: T = TypeAdapter(schema).validate_python(_merge(defaults(schema), settings, "", None))
    except ValidationError as error:
        lines = [_explain(schema, item, origin or {}) for item in error.errors(include_url=False)]
        raise InputError("\n".join(dict.fromkeys(lines))) from None
    if lines := [f"{_source(path, origin or {})}: {line}" for path, line in _bools_as_numbers(settings, dump(made))]:
        raise InputError("\n".join(lines))
    return made


def _bools_as_numbers(given: Any, made: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Where a true or false was given and became a number, as pydantic lets it (YAML reads `yes` and `on` as true)."""
    if isinstance(given, bool) and isinstance(made, int | float) and not isinstance(made, bool):
        yield path, f"{path}={str(given).lower()}: must be a number, not true or false (YAML reads yes and on as true)"
    elif isinstance(given, Mapping) and isinstance(made, Mapping):
        for key in given.keys() & made.keys():
            yield from _bools_as_numbers(given[key], made[key], f"{path}.{key}" if path else str(key))
    elif isinstance(given, list | tuple) and isinstance(made, list | tuple):
        for number, pair in enumerate(zip(given, made, strict=False)):
            yield from _bools_as_numbers(*pair, f"{path}.{number}")


def _source(path: str, origin: Mapping[str, str]) -> str:
    """The file, or the command line, that set a key."""
    return next((origin[p] for p in _prefixes(path) if p in origin), "settings")


def dump(config: Any) -> Tree:
    """The settings as nested plain values, ready for YAML or JSON."""
    tree: Tree = TypeAdapter(type(config)).dump_python(config, mode="json")
    return tree


def upgrade(tree: Mapping[str, Any]) -> Tree:
    """The settings of a run that was made before keys were renamed, by today's names; others as they are."""
    new = _merge({}, dict(tree), "", None)
    for old, name in RENAMED.items():
        *sections, key = old.split(".")
        inside: Any = new
        for section in sections:
            inside = inside.get(section) if isinstance(inside, dict) else None
        if not isinstance(inside, dict) or key not in inside:
            continue
        value = inside.pop(key)
        *sections, key = name.split(".")
        inside = new
        for section in sections:
            inside = inside.setdefault(section, {})
        inside.setdefault(key, value)
    if not new.get("windows", True):
        new.pop("windows")
    loss = new.get("loss")
    if isinstance(loss, dict) and loss.get("kind", "cpc") == "cpc" and loss.get("queue", ...) is None:
        loss.pop("queue")  # frames of past batches, before version 0.2
    return typing.cast(Tree, _upgrade_kinds(new))


def _upgrade_kinds(part: Any) -> Any:
    if isinstance(part, Mapping):
        return {k: RENAMED_KINDS.get(v, v) if k == "kind" else _upgrade_kinds(v) for k, v in part.items()}
    return [_upgrade_kinds(value) for value in part] if isinstance(part, list | tuple) else part


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """`{"optim": {"lr": 1}}` becomes `{"optim.lr": 1}`."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {prefix + key: value}
    return flat


def defaults(schema: Any) -> Tree:
    """The default of every field that has one, as nested plain values."""
    tree: Tree = {}
    for name, field in schema.__pydantic_fields__.items():
        if not field.is_required():
            value = field.get_default(call_default_factory=True, validated_data={})
            tree[name] = dump(value) if dataclasses.is_dataclass(value) else value
        elif dataclasses.is_dataclass(field.annotation):
            tree[name] = defaults(field.annotation)
    return tree


class Key(typing.NamedTuple):
    """One setting of a schema, for people: its dotted name, its type, its default ("required" where it has none), and
    what it means, from the line `name: meaning` of its class's docstring. `within` is the kind that it belongs to.
    """

    name: str
    type: str
    default: str
    meaning: str
    within: str = ""


class _Field(typing.NamedTuple):
    """A field of a dataclass within a schema: `key` is its dotted name, `kind` that of its dataclass, if it has one."""

    key: str
    name: str
    hint: Any
    owner: Any
    kind: str
    within: str


def _walk(schema: Any, prefix: str = "", within: str = "") -> Iterator[_Field]:
    """Every field of a schema, depth first, through unions, tuples and annotations."""
    options = list(_schemas(schema))
    several = sum(_has_kind(option) for option in options) > 1
    for option in options:
        kind = str(option.__dataclass_fields__["kind"].default) if _has_kind(option) else ""
        inside = kind if several else within
        hints = typing.get_type_hints(option, include_extras=True)
        for field in dataclasses.fields(option):
            key = prefix + field.name
            yield _Field(key, field.name, hints[field.name], option, kind, inside)
            yield from _walk(hints[field.name], f"{key}.", inside)


def describe(schema: Any) -> Iterator[Key]:
    """Every setting of a schema, of every kind that its unions hold, generated from the schema itself.

    >>> from cpc.training.recipe import Recipe
    >>> next(key for key in describe(Recipe) if key.name == "optim.lr").default
    '0.0002'
    """
    known: dict[Any, Tree] = {}
    for key, name, hint, owner, _, within in _walk(schema):
        if owner not in known:
            known[owner] = defaults(owner)
        given = known[owner]
        options = list(_schemas(hint))
        default = _plain(given[name]) if name in given else "required"
        kinds = [str(option.__dataclass_fields__["kind"].default) for option in options if _has_kind(option)]
        if len(kinds) > 1:
            if isinstance(given.get(name), Mapping):
                default = f"kind: {given[name]['kind']}"
            yield Key(key, f"mapping, kind: {'|'.join(kinds)}", default, _meaning(owner, name), within)
        elif options and given.get(name, ...) is None:
            yield Key(key, "mapping or null", default, _meaning(owner, name), within)
        elif not options and (name != "kind" or len(typing.get_args(hint)) > 1):
            yield Key(key, _type(hint), default, _meaning(owner, name), within)


def _has_kind(schema: Any) -> bool:
    return "kind" in schema.__dataclass_fields__


def _schemas(hint: Any) -> Iterator[Any]:
    """The dataclasses that a type can be, through unions, tuples and annotations."""
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        yield hint
    elif typing.get_origin(hint) in (typing.Annotated, typing.Union, types.UnionType, tuple):
        for option in typing.get_args(hint):
            yield from _schemas(option)


def _type(hint: Any) -> str:
    """A type as a reader of YAML knows it."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        limits = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}
        rules = [m for item in args[1:] for m in getattr(item, "metadata", [])]
        said = [
            f"{sign} {getattr(rule, key):g}" for rule in rules for key, sign in limits.items() if hasattr(rule, key)
        ]
        return " ".join([_type(args[0]), ", ".join(said)]).strip()
    if origin is Literal:
        return "|".join(map(str, args))
    if origin in (typing.Union, types.UnionType):
        return " or ".join(dict.fromkeys(map(_type, args)))
    if origin is tuple:
        return f"list of {_type(args[0])}"
    return {int: "whole number", float: "number", str: "text", bool: "true|false", type(None): "null"}.get(
        hint, str(hint)
    )


def _plain(value: Any) -> str:
    """A default on one line, as YAML takes it."""
    if isinstance(value, tuple | list):
        return f"[{', '.join(map(_plain, value))}]"
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _meaning(schema: Any, name: str) -> str:
    """What the class's docstring says after `name:`, up to the next such line or an empty one."""
    for owner in schema.__mro__:
        found = re.search(rf"^ *{name}: (.+?)(?=\n *\n|\n *\w+: |\Z)", owner.__doc__ or "", re.MULTILINE | re.DOTALL)
        if found:
            return " ".join(found[1].split())
    return ""


def _read(source: str | Path, origin: dict[str, str], chain: tuple[Path, ...]) -> Tree:
    """One YAML file over its bases."""
    path = _locate(source, chain[-1].parent if chain else Path())
    if path in chain:
        raise InputError(f"base: {path} is its own base by way of {' → '.join(p.name for p in chain)}; remove one")
    try:
        settings = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(settings, dict):
        raise InputError(f"{path}: a recipe is a mapping of keys to values, not {type(settings).__name__}")
    bases = settings.pop("base", [])
    tree: Tree = {}
    for base in [bases] if isinstance(bases, str) else bases:
        tree = _merge(tree, _read(base, origin, (*chain, path)), str(base), None)
    return _merge(tree, settings, str(path), origin)


def _locate(source: str | Path, folder: Path) -> Path:
    """A preset's name, or a file relative to the folder of the file that names it."""
    preset = PRESETS / f"{source}.yaml"
    if Path(source).suffix == "" and preset.exists():
        return preset
    path = folder / source
    if path.is_file():
        return path
    names = ", ".join(sorted(p.stem for p in PRESETS.glob("*.yaml")))
    raise InputError(f"recipe {source}: no such file; give a YAML file or one of the presets {names}")


def _parse_override(override: str) -> Tree:
    key, equals, text = override.partition("=")
    if not equals or not key.strip():
        raise InputError(f"override {override!r}: must be key=value, for example optim.lr=1e-3")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        raise InputError(f"override {override!r}: the value is not valid YAML; quote it") from None
    for part in reversed(key.strip().split(".")):
        value = {part: value}
    return typing.cast(Tree, value)


def _merge(below: Tree, above: Tree, name: str, origin: dict[str, str] | None, prefix: str = "") -> Tree:
    """`above` wins key by key; a mapping of another `kind` replaces the whole mapping below it."""
    merged = dict(below)
    for key, value in above.items():
        path = f"{prefix}{key}"
        if origin is not None:
            origin[path] = name
        old = merged.get(key)
        if isinstance(value, Mapping):
            same = isinstance(old, Mapping) and value.get("kind", old.get("kind")) == old.get("kind")
            merged[key] = _merge(dict(old) if same and old else {}, dict(value), name, origin, f"{path}.")
        else:
            merged[key] = value
    return merged


def _explain(schema: Any, error: Any, origin: Mapping[str, str]) -> str:
    """file: key=value: rule; remedy."""
    known = list(_walk(schema))
    tags = {field.kind for field in known if field.kind}
    path = ".".join(str(part) for part in error["loc"] if part not in tags)
    where = _source(path, origin)
    if error["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
        given = flatten({path: error["input"]}) if isinstance(error["input"], Mapping) else {path: error["input"]}
        if renamed := {key: RENAMED[key] for key in given if key in RENAMED}:
            rule = "this key is now called"
            return "\n".join(f"{where}: {k}={_short(given[k])}: {rule} {now}; rename it" for k, now in renamed.items())
        for (kind, key), remedy in REMOVED.items():
            if path == key and kind in error["loc"]:
                return f"{where}: {path}={_short(error['input'])}: {remedy}"
        names = sorted({field.key for field in known})
        siblings = [n for n in names if n.rpartition(".")[0] == path.rpartition(".")[0]]
        near = difflib.get_close_matches(path, siblings, 1, 0.5) or difflib.get_close_matches(path, names, 1, 0.5)
        near = near or [n for n in names if n.rpartition(".")[2] == path.rpartition(".")[2]][:1]
        remedy = f"did you mean {near[0]}?" if near else f"known keys here: {', '.join(siblings) or 'none'}"
        return f"{where}: {path}={_short(error['input'])}: no such key; {remedy}"
    if error["type"] == "missing":
        return f"{where}: {path}: must be given"
    rule = error["msg"].removeprefix("Value error, ")
    if error["type"] == "union_tag_invalid" and (now := RENAMED_KINDS.get(error["ctx"]["tag"])):
        return f"{where}: {path}.kind={error['ctx']['tag']}: this kind is now called {now}; rename it"
    named = isinstance(error["input"], Mapping) and re.match(r"[\w.]+=", rule)  # a rule of several fields names its own
    said = f".{rule}" if named else f"={_short(error['input'])}: {rule[:1].lower() + rule[1:]}"
    return f"{where}: {path}{said}"


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _prefixes(path: str) -> Iterator[str]:
    while path:
        yield path
        path = path.rpartition(".")[0]
