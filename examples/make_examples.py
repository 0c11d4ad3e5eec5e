"""Writes the sample documents beside this file (the Word and PDF ones need python-docx and fpdf2).

All people, companies and numbers are made up; names are of the record world's test partition, so no training passage
mentions them.
"""

from __future__ import annotations

import json
from pathlib import Path

import docx
from fpdf import FPDF

FOLDER = Path(__file__).parent / "documents"

STAFF = [
    "Ingrid Lindovic works for Velkor Freight. She was hired on 14 March 2016. Her badge number is K-2810. "
    "Annual training has been completed without remarks. Ingrid Lindovic lives in Dunmouth.",
    "Omar Brenwood has the position of safety officer. Omar Brenwood earns $62,000 a year. He resides in Langport. "
    "His e-mail address is desk@nexmere.com.",
    "Clara Marsen is employed by Nexmere Software. Clara Marsen was born in 1981. The employee has the position of tax adviser. "
    "Her salary is $71,000.",
]
COMPANIES = [
    "Velkor Freight has its headquarters in Oakport. The company has existed since 1987. Its chief executive is Hugo Tovberg. "
    "The annual accounts were filed on time. Velkor Freight employs 64 people.",
    "Nexmere Software was founded in 2004. The firm is led by Leila Norton. Nexmere Software is based in Ashhaven. "
    "Its contact address is hello@nexmere.com.",
    "Halium Glass mainly sells glass bottles. Its offices are at 27 Abbey Street. Halium Glass has 38 employees. "
    "The business has its headquarters in Millport.",
]
CONTRACTS = [
    "Contract C-5637 was awarded to Halium Glass. The contract was signed on 9 November 2021. It runs for 24 months. "
    "Both parties keep a signed copy. Contract C-5637 is worth $46,000.",
    "Contract P-4219 covers the delivery of medical gloves. Its supplier is Arcton Pharma. The contract has a total price of "
    "$83,000. Contract P-4219 was signed by Pablo Kalton.",
]
INCIDENTS = [
    "Incident R-6382 happened in Redstead. It was caused by a burst pipe. The incident was reported by Mei Havello. "
    "Nobody was hurt. Incident R-6382 cost $29,000.",
    "Incident T-2164 occurred on 3 June 2022. Its cause was a faulty sensor. Incident T-2164 stopped work for 17 hours. "
    "The incident was handled by Kronlan Motors.",
]
PRODUCTS = [
    "Thermolux 45 is made by Ostkor Optics. It sells for 79 dollars. Thermolux 45 has a warranty of 36 months. "
    "The product is made of aluminium.",
    "Optidrill 62 costs 54 dollars. Its maker is Lumgate Metals. Optidrill 62 comes in yellow. "
    "Spare parts are kept in stock. The product has been sold since 2012.",
    "Flexpad 31 was launched in 2018. It is made of cork. Flexpad 31 is listed as T-2173. Its warranty is 18 months.",
]
PATIENTS = [
    "Yasmin Gorini was diagnosed with bronchitis. She was admitted on 21 January 2023. Yasmin Gorini is allergic to penicillin. "
    "The patient is in room 42.",
    "Walter Lindaki is being treated for kidney stones. His doctor is Rosa Kallen. Walter Lindaki is insured with Vantex Media. "
    "The family has been informed.",
]
PROJECTS = [
    "Project Riverlight is managed by Nina Fensen. It was ordered by Trilan Energy. Project Riverlight is due on "
    "30 September 2024. The steering committee meets every month.",
    "Project Copperleaf has a budget of $57,000. Its goal is a visitor centre. Project Copperleaf started in 2020. "
    "The project was ordered by Galmere Farms.",
]
PROPERTIES = [
    "Fernridge House is rented by Solcore Logistics. Its rent is $34,000 a year. Fernridge House was built in 1962. "
    "Parking is available behind the house.",
    "Pinehurst Hall stands at 83 Orchard Street. It belongs to Andrei Norez. Pinehurst Hall has 26 rooms. "
    "The building is in Glenport.",
]


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    staff = [f"## {title}\n\n{text}\n" for title, text in zip(("Lindovic", "Brenwood", "Marsen"), STAFF, strict=True)]
    (FOLDER / "staff.md").write_text("# Staff records\n\n" + "\n".join(staff))
    profiles = "\n".join(f"<p>{text}</p>" for text in COMPANIES[:2])
    (FOLDER / "companies.html").write_text(
        "<!doctype html>\n<html><head><title>Profiles</title></head><body>\n"
        f"<h1>Company profiles</h1>\n{profiles}\n</body></html>\n"
    )
    (FOLDER / "suppliers.htm").write_text(f"<html><body><h1>Suppliers</h1>\n<p>{COMPANIES[2]}</p>\n</body></html>\n")
    document = docx.Document()
    document.add_heading("Contract summaries", 1)
    for text in CONTRACTS:
        document.add_paragraph(text)
    document.save(str(FOLDER / "contracts.docx"))
    pdf = FPDF()
    pdf.add_page()
    pdf.set_font("Helvetica", size=11)
    for text in INCIDENTS:
        pdf.multi_cell(0, 6, text, align="L", new_x="LMARGIN", new_y="NEXT")
        pdf.ln(6)
    pdf.output(str(FOLDER / "incidents.pdf"))
    rows = [{"title": "Catalogue", "text": text} for text in PRODUCTS]
    (FOLDER / "products.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (FOLDER / "ward.txt").write_text("\n\n".join(PATIENTS) + "\n")
    (FOLDER / "riverlight.md").write_text(f"# Project sheet\n\n{PROJECTS[0]}\n")
    (FOLDER / "copperleaf.md").write_text(f"# Project sheet\n\n{PROJECTS[1]}\n")
    (FOLDER / "properties.txt").write_text("\n\n".join(PROPERTIES) + "\n")


if __name__ == "__main__":
    main()
