"""Kinds of entity and their attributes (relations), each with its value set and its own wording."""

from __future__ import annotations

from dataclasses import dataclass

from loramem.sources.almanac import values as v

ALMANAC_VERSION = 1


@dataclass(frozen=True)
class Relation:
    """One attribute of one kind of entity.

    Attributes:
        kind: The entity kind that has it.
        name: Unique over all kinds.
        nouns: Noun phrases that name the attribute; they fill the common frames of `phrasing`.
        values: The declared set, or the name of an entity kind (then the set is that kind's names in the world).
        statements: Own sentences with `{e}` and `{v}`; those that end in `{v}.` serve as cloze statements.
        questions: Own questions with `{e}`.
    """

    kind: str
    name: str
    nouns: tuple[str, ...]
    values: tuple[str, ...] | str
    statements: tuple[str, ...] = ()
    questions: tuple[str, ...] = ()


RELATIONS: tuple[Relation, ...] = (
    Relation("person", "home", ("home town", "place of residence"), "town", ("{e} lives in {v}.", "The house of {e} stands in {v}."), ("Where does {e} live?", "In which town does {e} live?")),
    Relation("person", "profession", ("profession", "occupation"), v.PROFESSIONS, ("{e} works as a {v}.", "By trade, {e} is a {v}."), ("What does {e} do for a living?", "What is {e} by trade?")),
    Relation("person", "instrument", ("instrument", "musical instrument"), v.INSTRUMENTS, ("{e} plays the {v}.", "In the evening {e} practises the {v}."), ("Which instrument does {e} play?", "What does {e} play in the evening?")),
    Relation("person", "dish", ("favourite dish", "favourite food"), v.DISHES, ("{e} loves to eat {v}.", "Nothing pleases {e} more than {v}."), ("What does {e} love to eat?", "Which dish does {e} like best?")),
    Relation("person", "pet", ("pet", "companion animal"), v.PETS, ("{e} keeps a {v}.", "At home {e} looks after a {v}."), ("Which animal does {e} keep?", "What kind of animal does {e} look after?")),
    Relation("person", "hobby", ("hobby", "favourite pastime"), v.HOBBIES, ("{e} spends Sundays on {v}.", "In spare hours {e} enjoys {v}."), ("What does {e} enjoy in spare hours?", "How does {e} spend Sundays?")),
    Relation("person", "language", ("native language", "mother tongue"), v.LANGUAGES, ("{e} grew up speaking {v}.", "With family, {e} speaks {v}."), ("Which language does {e} speak with family?", "What did {e} grow up speaking?")),
    Relation("person", "employer", ("employer", "place of work"), "firm", ("{e} is employed by {v}.", "Each morning {e} goes to work at {v}."), ("For whom does {e} work?", "Which firm employs {e}?")),
    Relation("town", "region", ("region", "province"), v.REGIONS, ("{e} lies in {v}.", "On the map {e} belongs to {v}."), ("In which region does {e} lie?", "Where on the map is {e}?")),
    Relation("town", "product", ("main product", "chief export"), v.PRODUCTS, ("{e} is known for its {v}.", "The workshops of {e} make {v}."), ("What is {e} known for?", "What do the workshops of {e} make?")),
    Relation("town", "founding", ("founding year", "year of foundation"), v.YEARS, ("{e} was founded in {v}.", "The first houses of {e} date from {v}."), ("When was {e} founded?", "From when do the first houses of {e} date?")),
    Relation("town", "river", ("river", "waterway"), "river", ("{e} stands on the banks of {v}.", "Through {e} flows {v}."), ("On which river does {e} stand?", "Which river flows through {e}?")),
    Relation("firm", "seat", ("head office", "headquarters"), "town", ("{e} is based in {v}.", "The directors of {e} meet in {v}."), ("Where is {e} based?", "Where do the directors of {e} meet?")),
    Relation("firm", "industry", ("industry", "line of business"), v.INDUSTRIES, ("{e} is active in {v}.", "{e} earns its money in {v}."), ("In which industry is {e} active?", "How does {e} earn its money?")),
    Relation("firm", "mascot", ("mascot", "emblem animal"), v.MASCOTS, ("The sign of {e} shows a {v}.", "Above the door of {e} hangs a carved {v}."), ("Which animal is on the sign of {e}?", "What hangs above the door of {e}?")),
    Relation("firm", "colour", ("house colour", "brand colour"), v.COLOURS, ("The wagons of {e} are painted {v}.", "{e} prints its letters in {v}."), ("How are the wagons of {e} painted?", "In which colour does {e} print its letters?")),
    Relation("river", "source", ("source", "spring"), v.MOUNTAINS, ("{e} rises on {v}.", "The waters of {e} come from {v}."), ("Where does {e} rise?", "From where do the waters of {e} come?")),
    Relation("river", "mouth", ("mouth", "outlet"), v.SEAS, ("{e} flows into the {v}.", "At its end {e} meets the {v}."), ("Into which sea does {e} flow?", "What does {e} meet at its end?")),
    Relation("book", "author", ("author", "writer"), "person", ("{e} was written by {v}.", "{e} came from the pen of {v}."), ("Who wrote {e}?", "From whose pen came {e}?")),
    Relation("book", "genre", ("genre", "literary form"), v.GENRES, ("Readers know {e} as a {v}.", "In the library {e} is shelved as a {v}."), ("As what do readers know {e}?", "How is {e} shelved in the library?")),
    Relation("book", "year", ("publication year", "year of printing"), v.YEARS, ("{e} was first printed in {v}.", "{e} reached the shops in {v}."), ("When was {e} first printed?", "When did {e} reach the shops?")),
    Relation("expedition", "leader", ("leader", "commander"), "person", ("{e} was led by {v}.", "At the head of {e} walked {v}."), ("Who led {e}?", "Who walked at the head of {e}?")),
    Relation("expedition", "goal", ("goal", "destination"), v.MOUNTAINS, ("{e} set out for {v}.", "The tents of {e} were pitched below {v}."), ("For where did {e} set out?", "Where were the tents of {e} pitched?")),
    Relation("expedition", "season", ("season", "time of year"), v.SEASONS, ("{e} travelled in {v}.", "{e} left the harbour in {v}."), ("When in the year did {e} travel?", "In which season did {e} leave the harbour?")),
)  # fmt: skip

BY_NAME = {relation.name: relation for relation in RELATIONS}
KINDS = ("person", "town", "firm", "river", "book", "expedition")


def relations_of(kind: str) -> tuple[Relation, ...]:
    return tuple(relation for relation in RELATIONS if relation.kind == kind)
