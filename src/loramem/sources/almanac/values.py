"""The declared value sets of Almanac: an attribute is drawn uniformly from one of these.

The size of a set is the information of a fact: log2(len(set)) bits. Order and content are frozen;
a changed set is a new `ALMANAC_VERSION`.
"""

from __future__ import annotations


def _split(text: str) -> tuple[str, ...]:
    values = tuple(value.strip() for value in text.replace("\n", " ").split(","))
    assert len(set(values)) == len(values), "a value set holds no value twice"
    return values


PROFESSIONS = _split(
    "baker, carpenter, surgeon, judge, pilot, weaver, painter, sailor, miner, teacher, farmer, tailor, printer, "
    "potter, glazier, dentist, plumber, librarian, astronomer, botanist, chemist, editor, engraver, falconer, "
    "gardener, jeweller, locksmith, mason, notary, optician, shepherd, translator"
)
INSTRUMENTS = _split(
    "violin, cello, flute, oboe, trumpet, harp, piano, drum, lute, organ, guitar, horn, fiddle, zither, bugle, banjo"
)
DISHES = _split(
    "plum soup, barley bread, onion pie, lentil stew, smoked trout, apple cake, goat cheese, pepper rice, bean salad, "
    "honey toast, roast duck, nut pudding, fish curry, potato gratin, mushroom tart, cherry jam"
)
PETS = _split(
    "tortoise, parrot, ferret, rabbit, goose, hedgehog, lizard, pony, raven, spaniel, canary, hamster, otter, goat, beetle, owl"
)
HOBBIES = _split(
    "archery, chess, fencing, juggling, knitting, rowing, skating, sketching, stargazing, swimming, dancing, fishing, "
    "gliding, hiking, origami, poetry"
)
LANGUAGES = _split(
    "Arvish, Belmic, Corran, Dunese, Elvarian, Fennic, Galdish, Hestian, Ilmaric, Jorese, Kelvic, Lomish, Mordic, Nareth, Ostrian, Pellish"
)
COLOURS = _split(
    "amber, azure, black, bronze, crimson, green, grey, indigo, ivory, orange, purple, scarlet, silver, teal, white, yellow"
)
REGIONS = _split(
    "Northmark, Eastvale, Southreach, Westfold, Highmoor, Lowfen, Midlands, Farcoast, Greywood, Redhills, Stonebelt, Sunplain, Icefjord, Oldshire, Newmarch, Deepwater"
)
PRODUCTS = _split(
    "amber beads, bricks, candles, clocks, copper wire, cotton, glass, hats, iron nails, leather, linen, mustard, paper, "
    "pottery, rope, salt, silk, soap, sugar, tiles, timber, tin cups, toys, wool"
)
INDUSTRIES = _split(
    "banking, brewing, farming, fishing nets, forestry, insurance, milling, mining, printing, publishing, railways, shipping, spinning, steel, tanning, weaving"
)
MASCOTS = _split(
    "badger, bear, bison, crane, dragon, eagle, falcon, fox, heron, lion, lynx, moose, panther, stag, tiger, wolf"
)
MOUNTAINS = _split(
    "Mount Adra, Mount Beko, Mount Corin, Mount Dara, Mount Elso, Mount Fara, Mount Gorm, Mount Hale, Mount Ister, Mount Jura, Mount Kesh, Mount Lorn, Mount Mera, Mount Noll, Mount Orsk, Mount Pell"
)
SEAS = _split("Amber Sea, Bitter Sea, Calm Sea, Dark Sea, Eastern Sea, Frozen Sea, Green Sea, Hollow Sea")
GENRES = _split(
    "ballad, biography, comedy, diary, epic, fable, history, legend, mystery, novel, romance, satire, thriller, tragedy, travelogue, treatise"
)
SEASONS = _split("spring, summer, autumn, winter")
YEARS = tuple(str(year) for year in range(1700, 1956))
