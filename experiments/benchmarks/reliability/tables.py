"""What was recorded, as a table."""

from experiments.benchmarks.reliability.contestants import CONTESTANTS

PARTS = ("kills", "points", "steps", "injections", "flips", "cuts", "power")


def table(results: dict) -> str:
    """Of what was recorded, jnn beside Orbax alone."""
    rows = []

    def row(title, part, say):
        if part in results:
            rows.append(f"| {title} | {' | '.join(say(results[part][name]) for name in CONTESTANTS)} |")

    def killed(found):
        lost, bad = found["steps lost"], found["newest checkpoint unreadable"] + found["errors"]
        return f"{found['kills']:,}; {_all(found)} ended alike; at most {lost['most']} steps lost; {bad} unreadable"

    def faulty(found):
        total = {name: sum(counts[name] for counts in found.values()) for name in next(iter(found.values()))}
        said = f"{total['calls']:,}; {total['raised']:,} raised, {total['harmless']:,} without effect, "
        said += f"{total['swallowed']:,} swallowed; the run went on after {total['calls'] - total['not gone on']:,}"
        return f"{said}; {total['earlier damaged']:,} damaged an earlier checkpoint" if total["earlier damaged"] else said

    def damaged(found):
        noticed = found["noticed"] + found["noticed, file not named"]
        said = f"{noticed:,} of {found['damaged']:,} noticed"
        if noticed == found["damaged"]:
            return said
        return f"{said}, {found['same numbers']:,} without effect, {found['other numbers']:,} loaded other numbers"

    def back(found):
        return f"{found['gone back']:,} of {found['tried']:,}" if found["tried"] else "not by itself"

    def lost(found):
        words = {"same numbers": "whole", "noticed": "unreadable", "other numbers": "other numbers"}
        return f"{found['not synced']} of {found['files']} files not synced; afterwards {words[found['afterwards']]}"

    row("SIGKILL at random moments", "kills", killed)
    row("SIGKILL at each call of a save in turn", "points", killed)
    if "steps" in results:
        found = results["steps"]["jnn"]
        said = f"{found['kills']:,}; {_all(found)} ended alike"
        rows.append(
            f"| SIGKILL after each step, {found['optimizers']} optimizers x {found['loaders']} loaders | {said} | not tried |"
        )
    row("an error at each call of a save in turn", "injections", faulty)
    if "flips" in results:
        said = damaged(results["flips"]["jnn"]["manifest"])
        rows.append(f"| a flipped bit in each byte of the manifest | {said} | has none |")
    row("a flipped bit in the files", "flips", lambda found: damaged(found["files"]))
    row("and the run goes on from the checkpoint before", "flips", lambda found: back(found["files"]))
    row("a file cut, emptied or removed", "cuts", damaged)
    row("power lost as a checkpoint is done", "power", lost)
    return "\n".join(["| | jnn | Orbax alone |", "|---|---|---|", *rows]) + "\n"


def _all(found) -> str:
    return "all" if found["ended alike"] == found["runs"] else f"{found['ended alike']} of {found['runs']}"
