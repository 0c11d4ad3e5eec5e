"""Names and values of the record world: composed from parts, so that a test world's names are new.

A composed stem (`Tov` + `ik`) belongs to exactly one partition, decided by a hash of the stem: every part is seen
in training, the combinations of the validation and test partitions are not. This module knows no families and no text.
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Callable
from typing import Literal

Partition = Literal["train", "validation", "test"]
Value = tuple[str, int | None]
"""A value's text and, where values of its kind can be compared, its order (an integer)."""


def partition_of(stem: str) -> Partition:
    """80 % of all stems are for training, 10 % for validation, 10 % for test; stable across machines."""
    bucket = zlib.crc32(stem.encode()) % 100
    return "train" if bucket < 80 else "validation" if bucket < 90 else "test"


def _words(text: str) -> list[str]:
    return text.split()


WOMEN = _words(
    "Anna Maria Elena Sofia Laura Julia Nina Clara Irene Paula Olga Vera Marta Diana Helen Ruth Alice Emma Grace Lucy "
    "Sarah Karen Linda Susan Carol Janet Monica Teresa Ingrid Astrid Freya Sigrid Leila Fatima Amina Yasmin Priya Anita "
    "Mei Yuki Hana Keiko Rosa Carmen Lucia Ines Bianca Noemi Greta Hilda"
)
MEN = _words(
    "Peter Martin Thomas Daniel Simon Victor Oscar Felix Hugo Leon Adam Paul Mark Erik Lars Nils Sven Bjorn Igor Boris "
    "Pavel Milan Goran Stefan Andrei Marco Luca Paolo Diego Pablo Carlos Miguel Omar Hassan Karim Tariq Ravi Arjun Kenji "
    "Hiro Jack Henry George Arthur Walter Frank Roger Colin Duncan Edgar"
)
STEMS: dict[str, tuple[list[str], list[str]]] = {
    "surname": (
        _words("Tov Mar Bren Kal Dor Fen Gor Hav Jor Lind Nor Pel Quin Ras Sten Tul Ull Vas Wex Zel Ald Bor Crav Del Erd Fal"),
        _words("ik len ner ovic sen berg man ström ard ello ini ova sky ton wood ley ez aki"),
    ),
    "company": (
        _words("Vel Bran Cor Hal Ost Tri Sol Nex Pri Gal Arc Lum Vant Kron Ax Ser Mon Tec Pol Ever Glo Rav Sil Ter Uni Zan"),
        _words("kor dane tix mere lan dor via nova ris gate ex ton mark sys core ium"),
    ),
    "city": (
        _words("Ash Bel Car Dun East Fair Glen Hart Kings Lang Mill New Oak Pem Red Sand Stan Thorn Wal West Win York Hol Bux"),
        _words("field ford burg haven mouth bury dale port wick ham stead brook gate minster"),
    ),
    "project": (
        _words("Amber Blue Copper Dawn Echo Fire Gold Iron Jade Light Moon North Open Pearl River Silver Storm Sun Swift Wind"),
        _words("fall bridge crest path stone wave line peak point light leaf shore track spring"),
    ),
    "product": (
        _words("Zen Aqua Opti Power Dura Flex Quick Smart Thermo Ultra Vita Maxi Nano Pro Rapid Sono Tele Vibro Xeno Hydro"),
        _words("tia lux mat pad scan bot lift drill press mix cut pump fan seal"),
    ),
    "building": (
        _words("Brad Clif Dray Elm Fern Graf Hazel Ivy Kent Lark May Nor Ox Pine Rowan Salt Temple Vic Wood Yew"),
        _words("wick more ley combe worth croft mead side ridge view ward hurst"),
    ),
    "vessel": (
        _words("Sor Mira Cala Nore Atla Bore Dela Fior Gala Isla Kara Lore Mari Ocea Pola Sela Tara Vola"),
        _words("landa nne belle star mar queen spirit wind trader pride dora gard"),
    ),
}
SECTORS = _words(
    "Foods Freight Energy Software Textiles Metals Pharma Logistics Motors Paper Glass Marine Optics Steel Farms Media"
)
STREETS = _words("Harbor Church Station Market Garden Bridge Castle Forest Mill School Abbey Canal Park Orchard Queen Tower")
HOUSES = _words("House Hall Court Tower Lodge Manor")
MONTHS = _words("January February March April May June July August September October November December")
LETTERS = "ABCDEFGHKLMNPRSTVWXZ"
MAILBOXES = _words("office info hello desk team mail post sales staff service contact front back north south head")

LISTS: dict[str, list[str]] = {
    "role": [
        "nurse", "welder", "lawyer", "auditor", "chemist", "plumber", "teacher", "driver", "baker", "tailor", "painter",
        "surveyor", "librarian", "translator", "secretary", "mechanic", "gardener", "biologist", "architect", "cashier",
        "programmer", "accountant", "pharmacist", "electrician", "data analyst", "sales manager", "warehouse clerk",
        "project manager", "safety officer", "lab technician", "tax adviser", "tour guide",
    ],
    "trade": [
        "wheat", "timber", "copper wire", "solar panels", "office chairs", "coffee", "cement", "bicycles", "medical gloves",
        "car tyres", "batteries", "fertiliser", "olive oil", "glass bottles", "water pumps", "leather bags", "printer ink",
        "winter coats", "steel pipes", "roof tiles", "cotton", "frozen fish", "garden tools", "light bulbs", "salt",
        "kitchen knives", "running shoes", "carpets", "candles", "paint",
    ],
    "goal": [
        "new website", "training plan", "staff app", "cost report", "bus line", "flood barrier", "wind farm", "data centre",
        "sports hall", "tunnel", "market study", "payment system", "mobile clinic", "visitor centre", "rail link",
        "water filter", "language course", "traffic model", "seed bank", "weather station", "safety manual", "parking deck",
    ],
    "cause": [
        "power cut", "gas leak", "burst pipe", "loose cable", "software bug", "broken valve", "blocked drain", "lightning strike",
        "worn bearing", "forklift crash", "wrong label", "missing guard", "faulty sensor", "stolen laptop", "frozen pump",
        "cracked weld", "open window", "weak password", "chemical spill", "short circuit", "loose bolt", "dust fire",
    ],
    "condition": [
        "asthma", "migraine", "pneumonia", "diabetes", "anaemia", "eczema", "arthritis", "bronchitis", "a broken wrist",
        "high blood pressure", "kidney stones", "a torn ligament", "appendicitis", "hepatitis", "gout", "sinusitis",
        "a concussion", "lung disease", "heart failure", "epilepsy", "malaria", "tonsillitis", "back pain", "a hernia",
    ],
    "allergy": [
        "penicillin", "latex", "peanuts", "aspirin", "iodine", "shellfish", "pollen", "soy", "eggs", "morphine", "wool",
        "codeine", "sesame", "nickel", "bee venom", "ibuprofen", "mustard", "lactose", "gluten", "strawberries",
    ],
    "material": [
        "oak", "pine", "aluminium", "bamboo", "brass", "carbon fibre", "ceramic", "cork", "granite", "linen", "marble", "nylon",
        "rubber", "silk", "stainless steel", "titanium", "walnut", "glass", "felt", "bronze",
    ],
    "colour": [
        "red", "green", "yellow", "black", "white", "grey", "purple", "orange", "pink", "brown", "navy", "beige", "cream",
        "crimson", "olive", "turquoise", "violet", "maroon", "lime", "teal",
    ],
}  # fmt: skip


class Names:
    """Draws names and values for one partition from a random stream that the caller owns."""

    def __init__(self, rng: random.Random, partition: Partition) -> None:
        self.rng = rng
        self.partition = partition

    def stem(self, kind: str) -> str:
        starts, ends = STEMS[kind]
        while True:
            stem = self.rng.choice(starts) + self.rng.choice(ends)
            if partition_of(stem) == self.partition:
                return stem

    def person(self) -> str:
        return f"{self.rng.choice(WOMEN if self.rng.random() < 0.5 else MEN)} {self.stem('surname')}"

    def company(self) -> str:
        return f"{self.stem('company')} {self.rng.choice(SECTORS)}"

    def city(self) -> str:
        return self.stem("city")

    def project(self) -> str:
        return f"Project {self.stem('project')}"

    def product(self) -> str:
        return f"{self.stem('product')} {self.rng.randint(21, 98)}"

    def property(self) -> str:
        return f"{self.stem('building')} {self.rng.choice(HOUSES)}"

    def vessel(self) -> str:
        return f"MV {self.stem('vessel')}"

    def identifier(self) -> str:
        while True:
            identifier = f"{self.rng.choice(LETTERS)}-{self.rng.randint(21, 98)}{self.rng.randint(10, 99)}"
            if partition_of(identifier) == self.partition:
                return identifier

    def contract(self) -> str:
        return f"Contract {self.identifier()}"

    def incident(self) -> str:
        return f"Incident {self.identifier()}"

    def email(self) -> str:
        return f"{self.rng.choice(MAILBOXES)}@{self.stem('company').lower()}.com"

    def address(self) -> str:
        return f"{self.rng.randint(11, 98)} {self.rng.choice(STREETS)} Street"

    def date(self) -> str:
        return f"{self.rng.randint(1, 28)} {self.rng.choice(MONTHS)} {self.rng.randint(1995, 2025)}"

    def value(self, kind: str) -> Value:
        """A value of `kind` (see the families' YAML) and its order if values of this kind can be compared."""
        if kind == "year":
            year = self.rng.randint(1950, 2020)
            return str(year), year
        if kind == "count":
            count = self.rng.randint(11, 98)
            return str(count), count
        if kind == "money":
            thousands = self.rng.randint(11, 98)
            return f"${thousands},000", thousands
        if kind == "months":
            return f"{self.rng.randint(6, 60)} months", None
        if kind in LISTS:
            return self.rng.choice(LISTS[kind]), None
        draw: Callable[[], str] = getattr(self, kind)
        return draw(), None
