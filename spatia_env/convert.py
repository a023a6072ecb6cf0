"""`spatia convert`: the released weights, in whichever layout they were downloaded, into one model folder."""

import tyro


def main(argv: list[str]) -> int:
    """Run `spatia convert`; one line a step."""
    from spatia_env.model.convert import ConvertConfig, convert

    config = tyro.cli(
        ConvertConfig,
        args=argv,
        prog="spatia convert",
        description="Turn the released files into one folder that --model takes.",
    )
    report = convert(config, progress=lambda line: print(line, flush=True))
    tensors = ", ".join(f"{name} {count} tensors" for name, count in report.tensors.items())
    print(f"wrote {report.folder}: {tensors}, {report.bytes / 1e9:.2f} GB")
    return 0
