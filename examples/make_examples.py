"""Writes the sample documents beside this file (the Word and PDF ones need python-docx and fpdf2).

Papers such as an office or a household has. All people, companies, places and numbers are made up.
"""

from __future__ import annotations

import json
import textwrap
from datetime import UTC, datetime
from pathlib import Path

import docx
from fpdf import FPDF

FOLDER = Path(__file__).parent / "documents"
DATE = datetime(2025, 1, 1, tzinfo=UTC)  # in the PDF files, so that they come out the same each time

EMPLOYMENT = [
    "This employment contract is made between Harrow Lane Bakery and Miriam Oduya. Miriam Oduya is employed as production "
    "manager from 3 February 2025. Her place of work is the bakery at 18 Tannery Road in Wexcombe.",
    "The employee receives a salary of $58,400 a year. The salary is paid on the 27th of each month. A bonus of up to "
    "6 percent is paid in December if the bakery has met its sales target.",
    "The working week has 38 hours, from Monday to Friday. Work begins at half past five in the morning. The employee is "
    "entitled to 28 days of paid holiday a year. Holiday is requested from Tobias Wrenfield, three weeks in advance.",
    "The probation period lasts four months. During probation either side may end the contract with two weeks of notice. "
    "After probation the notice period is three months, and notice must be given in writing.",
    "The employee keeps the recipes and the customer list of the bakery confidential. This duty continues for two years "
    "after the employment has ended. Disputes are heard by the labour court in Garnholt.",
]
LEASE = [
    "This lease is made between the landlord, Edmund Farraday, and the tenant, Priya Sundar. It covers the flat on the "
    "second floor of 7 Wharf Lane in the town of Lindmere. The lease begins on 1 May 2024 and runs for 36 months.",
    "The rent is $1,340 a month and is due on the first working day of the month. The tenant pays a deposit of $2,680, "
    "which is held by Calder Trust Bank. The rent may rise once a year, by no more than 3 percent.",
    "The tenant may keep one cat in the flat, but no dogs. Smoking is not allowed anywhere in the house. Bicycles are kept "
    "in the cellar. Parking space 14 in the yard belongs to the flat.",
    "Small repairs of up to $120 are paid by the tenant. The landlord repairs the heating, the roof and the lift. A burst "
    "pipe must be reported at once to the caretaker, Lionel Stubbs, by telephone on 555-0148.",
    "At the end of the lease the tenant returns four keys and paints the walls white. The landlord and the tenant inspect "
    "the flat together. The deposit is paid back within 45 days of the inspection.",
]
INCIDENT = [
    "This report concerns a chemical spill in the paint store of the Brackwater plant. The spill took place on "
    "19 August 2024 at 14:20. About 60 litres of solvent ran across the floor.",
    "The spill was caused by a cracked valve on drum 8. The valve had been damaged the day before, when a forklift truck hit "
    "the rack. The driver of the forklift truck did not report the collision.",
    "The leak was discovered by Agnes Morland, a laboratory technician. She closed the fire doors and called the fire "
    "brigade, which arrived after six minutes. One worker, Dev Hallis, was treated for sore eyes and returned to work the "
    "next day.",
    "Production in hall 3 stood still for five hours. The cleaning was done by Sandpiper Services and cost $7,850. The "
    "insurer has been informed and handles the damage under claim number BR-20931.",
    "The report recommends steel guards in front of every rack and a monthly inspection of all valves. The plant manager, "
    "Ruth Osterley, is responsible for the guards. They must be in place by 31 October 2024.",
]
MINUTES = {
    "Attendance": "The board of the Fenbrook Rowing Club met on 11 March 2025 in the boathouse. Six members were present, and "
    "Graham Pellow sent his apologies. The board meeting was chaired by Helena Carter.",
    "Accounts": "The treasurer, Ibrahim Dannat, presented the accounts of the past year. The club took in $46,210 and spent "
    "$41,975. The board approved the accounts, with nobody voting against.",
    "New boat": "The board decided to buy a new boat from Larkspur Boatbuilders for $23,500. The old boat, the Kingfisher, will "
    "be sold to a school. The new boat is expected in June.",
    "Regatta": "The summer regatta will be held on 12 July on Lake Orrin. Beatrix Nollet is in charge of the volunteers and "
    "needs at least thirty helpers. The entry fee stays at $15 for each rower.",
    "Fees": "The membership fee for adults rises to $210 a year. Members under eighteen still pay $90. The board meets again "
    "on 8 April at seven in the evening.",
}
PRODUCT = {
    "The Tarn 300 water filter": "The Tarn 300 is a water filter for households of up to five people. It is made by Glenvale "
    "Home in Struanby. The housing is made of stainless steel and the tap of brass.",
    "Technical data": "The tank of the Tarn 300 holds 9 litres. A full tank is filtered in about 40 minutes. The empty filter "
    "weighs 3.2 kilograms and is 48 centimetres high. It needs no electricity.",
    "Cartridge": "The ceramic cartridge of the Tarn 300 has the order number CX-44. One cartridge cleans 1,500 litres of "
    "water, which is enough for about six months. It must never be washed with soap.",
    "Warranty": "The water filter has a warranty of five years. The warranty covers the housing and the tap, but not the "
    "cartridge. Claims are sent with the receipt to service@glenvale.example.",
}
PRICES = [
    "A basic bicycle service costs $65. The chain is cleaned, the gears are adjusted and the brakes are checked. The work "
    "takes one day.",
    "A full bicycle service costs $145. The wheels are straightened, all cables are replaced and the bearings are greased. "
    "The work takes three days. A loan bicycle is available for $8 a day.",
    "The repair of a flat tyre costs $18, with a new inner tube. Customers can wait while the tyre is repaired. A Ridgeline "
    "tyre against punctures costs $39 more.",
    "A new battery for an electric bicycle costs $480. The old battery is taken back free of charge. The new battery has a "
    "guarantee of 24 months.",
    "A child seat is fitted for $22, and the seat itself costs $95. It suits children of up to 20 kilograms. Every seat is "
    "fitted by our mechanic, Jasper Nkemi.",
]
CLINIC = [
    "Dear Doctor Abelard, thank you for sending Mr. Colin Strand to our heart clinic. He was examined by Doctor Fiona "
    "Tregarth on 4 November 2024. Mr. Strand complained of shortness of breath when climbing stairs.",
    "The blood pressure of Mr. Strand was 158 over 94. The ultrasound showed that a valve of the heart is slightly thickened. "
    "His blood tests were normal, except for a raised level of cholesterol.",
    "Mr. Strand now takes 5 milligrams of amlodipine every morning. He must not take ibuprofen, because it raises his blood "
    "pressure. Mr. Strand is allergic to hazelnuts.",
    "We told the patient to walk for half an hour each day and to eat less salt. On Thursdays he attends the exercise group "
    "led by Nurse Okello. He gave up smoking nine years ago.",
    "The next appointment of Mr. Strand is on 6 February 2025 at 10:15 in room 212. He should bring a record of his blood "
    "pressure for the last two weeks. In an emergency the clinic can be reached on extension 7731.",
]
TRAVEL = {
    "Scope": "This policy applies to all employees of Marlowe Architects who travel on business. It has been in force since "
    "1 January 2025. Questions are answered by Noor Bellweather in the accounts office.",
    "Trains and flights": "Employees travel by train whenever the journey takes less than five hours. Flights need the approval "
    "of the head of department. Only economy class is paid, except on flights of more than eight hours.",
    "Hotels and meals": "A hotel room may cost up to $155 a night, with breakfast. The daily allowance for meals is $48. Drinks "
    "from the minibar are never refunded.",
    "Cars": "Employees who drive their own car receive 42 cents a mile. Parking fees are refunded, but fines are not. Rental "
    "cars are booked through Swiftlane Rentals under the customer number 60718.",
    "Claims": "Expense claims are handed in within 30 days of the end of the trip, on form T-9. Receipts are needed for every "
    "amount above $12. Approved claims are paid together with the next salary.",
}
DELIVERY = [
    "This delivery note belongs to order 31977 of Pinecote Primary School. The goods were sent by Ashdown Furniture on "
    "16 September 2024. The order had been placed by Lorna Mayhew.",
    "The delivery consists of 24 desks, 24 chairs and two whiteboards, packed on five pallets. The total weight is "
    "612 kilograms. A cupboard was out of stock and will follow in October.",
    "The goods were carried by Hartline Transport in the truck with the number plate KV 73 RTB. The driver of the truck was "
    "Stefan Orlik. The truck was unloaded at the side entrance in Mill Row.",
    "The caretaker of the school, Neville Crump, signed for the goods at 9:40. He noted a scratch on one desk. Other damage "
    "must be reported to Ashdown Furniture within seven days.",
]


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    _word("employment-contract.docx", "Employment contract", EMPLOYMENT)
    _pdf("lease.pdf", "Lease", LEASE)
    _pdf("incident-report.pdf", "Incident report 24-117", INCIDENT)
    sections = [f"## {title}\n\n{text}\n" for title, text in MINUTES.items()]
    (FOLDER / "board-minutes.md").write_text("# Minutes of the board\n\n" + "\n".join(sections))
    _html("product-sheet.html", "Product sheet", PRODUCT)
    _html("travel-policy.htm", "Travel policy", TRAVEL)
    rows = [{"title": "Dunloe Cycle Workshop, prices", "text": text} for text in PRICES]
    (FOLDER / "prices.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    _text("clinic-letter.txt", "EASTMOOR CLINIC", CLINIC)
    _text("delivery-note.txt", "DELIVERY NOTE 88-4052", DELIVERY)


def _word(name: str, title: str, paragraphs: list[str]) -> None:
    document = docx.Document()
    document.add_heading(title, 1)
    for text in paragraphs:
        document.add_paragraph(text)
    document.save(str(FOLDER / name))


def _pdf(name: str, title: str, paragraphs: list[str]) -> None:
    pdf = FPDF()
    pdf.set_creation_date(DATE)
    pdf.add_page()
    pdf.set_font("Helvetica", style="B", size=16)
    pdf.multi_cell(0, 10, title, align="L", new_x="LMARGIN", new_y="NEXT")
    pdf.ln(4)
    pdf.set_font("Helvetica", size=11)
    for text in paragraphs:
        pdf.multi_cell(0, 6, text, align="L", new_x="LMARGIN", new_y="NEXT")
        pdf.ln(6)
    pdf.output(str(FOLDER / name))


def _html(name: str, title: str, sections: dict[str, str]) -> None:
    body = "\n".join(f"<h2>{heading}</h2>\n<p>{text}</p>" for heading, text in sections.items())
    head = f'<head><meta charset="utf-8"><title>{title}</title></head>'
    (FOLDER / name).write_text(f'<!doctype html>\n<html lang="en">{head}<body>\n<h1>{title}</h1>\n{body}\n</body></html>\n')


def _text(name: str, title: str, paragraphs: list[str]) -> None:
    wrapped = [textwrap.fill(text, 78) for text in paragraphs]
    (FOLDER / name).write_text("\n\n".join([title, *wrapped]) + "\n")


if __name__ == "__main__":
    main()
