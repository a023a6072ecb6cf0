"""What others published. Nothing here was reproduced: other data, other frames, other metrics' weights.

Grades: A, read in the authors' own figure or repository; B, two independent transcriptions agree; C, one transcription.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Published:
    """A table of another work.

    Attributes:
        title: What it measures.
        source: Where it stands.
        grade: "A", "B" or "C", see above.
        columns: Heads of the columns after the first.
        rows: System and its numbers, as printed.
    """

    title: str
    source: str
    grade: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


SPATIA = "Spatia, arXiv 2512.15716"
PUBLISHED: tuple[Published, ...] = (
    Published(
        "WorldScore: static, dynamic, their mean, camera control",
        f"{SPATIA}, table 1",
        "A",
        ("average", "static", "dynamic", "camera control"),
        (
            ("WonderWorld", "61.79", "72.69", "50.88", "92.98"),
            ("Voyager", "66.08", "77.62", "54.53", "85.95"),
            ("CogVideoX-I2V", "60.64", "62.15", "59.12", "38.27"),
            ("Wan2.1", "55.21", "57.56", "52.85", "23.53"),
            ("Spatia", "69.73", "72.63", "66.82", "75.66"),
        ),
    ),
    Published(
        "closed loop: last frame against the first",
        f"{SPATIA}, and Mirage, arXiv 2606.09828",
        "B",
        ("PSNR_C", "SSIM_C", "LPIPS_C", "match accuracy (RoMa)"),
        (
            ("ViewCrafter", "14.79", ".481", ".365", ".447"),
            ("FlexWorld", "12.20", ".428", ".598", ".377"),
            ("Voyager", "17.66", ".540", ".380", ".507"),
            ("Spatia", "19.38", ".579", ".213", ".698"),
            ("Mirage", "20.05", ".825", ".228", ""),
        ),
    ),
    Published(
        "Spatia's parts switched off",
        f"{SPATIA}, ablation",
        "C",
        ("camera control", "PSNR_C", "SSIM_C", "LPIPS_C"),
        (
            ("neither", "58.81", "15.55", ".444", ".379"),
            ("scene video only", "80.13", "17.18", ".500", ".295"),
            ("references only", "61.38", "15.64", ".444", ".393"),
            ("both", "84.47", "19.38", ".579", ".213"),
        ),
    ),
    Published(
        "Spatia over clips",
        f"{SPATIA}, ablation",
        "C",
        ("camera control", "PSNR_C", "SSIM_C", "LPIPS_C"),
        (
            ("2 clips", "84.47", "19.38", ".579", ".213"),
            ("4 clips", "83.97", "18.23", ".546", ".253"),
            ("6 clips", "83.41", "18.04", ".541", ".259"),
        ),
    ),
    Published(
        "Spatia over the number of references",
        f"{SPATIA}, ablation",
        "C",
        ("PSNR_C", "SSIM_C", "LPIPS_C", "match accuracy (RoMa)"),
        (
            ("1", "17.50", ".537", ".284", ".592"),
            ("3", "17.85", ".540", ".275", ".606"),
            ("5", "18.48", ".556", ".248", ".640"),
            ("7", "19.38", ".579", ".213", ".698"),
        ),
    ),
    Published(
        "RealEstate10K over the map's voxel edge",
        f"{SPATIA}, ablation",
        "C",
        ("PSNR", "SSIM", "LPIPS"),
        (
            ("1 cm", "18.58", ".646", ".254"),
            ("3 cm", "17.10", ".614", ".313"),
            ("5 cm", "16.35", ".596", ".349"),
            ("7 cm", "15.97", ".585", ".370"),
        ),
    ),
)


def published_lines() -> list[str]:
    """All tables as Markdown."""
    lines = []
    for table in PUBLISHED:
        head = ["system", *table.columns]
        lines += [
            "",
            f"*Published, not reproduced: {table.title}* ({table.source}; provenance {table.grade})",
            "",
        ]
        lines += ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
        lines += ["| " + " | ".join(row) + " |" for row in table.rows]
    return lines[1:]
