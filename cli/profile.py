"""`tpplan profile`: measure, save, print."""

from __future__ import annotations

import click

from .output import Progress, emit, note, print_tables


@click.command()
@click.option("--device", "devices", multiple=True, metavar="SPEC", help="cpu, cpu:0-3, cuda:0, cuda:0/16; repeat it.")
@click.option("--quick", is_flag=True, help="Fewer shapes and repetitions, for a first look.")
@click.option("-o", "--output", default="profile.json", show_default=True, metavar="FILE")
@click.option("--json", "as_json", is_flag=True, help="Print the profile as one JSON object.")
def command(devices: tuple[str, ...], quick: bool, output: str, as_json: bool) -> None:
    """Measure devices: what each computes, reads and exchanges, alone and beside the others.

    Without --device, all GPUs are devices, and all cores of this process are one. Nothing else should be running
    meanwhile.

    \b
    tpplan profile --device cpu:0 --device cpu:1
    tpplan profile --device cuda:0 --device cuda:1 --device cpu:0-7 -o box.json
    """
    import msgspec

    from ..hwprofiles.device_names import check_names, numbered, shared_cores
    from ..hwprofiles.files import check_writable
    from ..hwprofiles.measure import measure
    from ..hwprofiles.storage import save_profile
    from ..hwprofiles.table import profile_tables

    check_writable(output)
    check_names(numbered(devices))
    for line in shared_cores(devices):
        note(line)
    lines: list[str] = []
    with Progress() as progress:
        profile = measure(list(devices), quick, progress, lines.append)
    for line in lines:
        note(line)
    save_profile(profile, output)
    if as_json:
        emit({"path": output, "fingerprint": profile.fingerprint} | msgspec.to_builtins(profile))
    else:
        print_tables(profile_tables(profile))
    note(f"wrote {output}")
