"""The tables of benchmarks, presets and costs."""

import contextlib
import io
import re

from readme_cells import markdown, read_json


def bench(name):
    """The figures of one benchmark."""
    return read_json("results", "bench", f"{name}.json")["figures"]


def encoder_rows():
    scan, encoder = bench("scan"), bench("encoder")
    longer, memory, times = scan["times_cpu"], scan["added_memory_gib"], encoder["times_linears"]
    yield (
        f"selective scan, forward and backward: batch {scan['batch']}, d = {scan['channels']}, "
        f"N = {scan['states']}, L = {scan['length']}, {scan['directions']} directions",
        f"{scan['seconds']['cpu']:.3f} s",
    )
    yield (
        "– a time loop in PyTorch; a loop that stores (B, D, L, N)",
        f"{longer['reference']:.1f}; {longer['naive']:.0f} times as long",
    )
    yield (
        "– memory added by the scan, the time loop, the storing loop",
        f"{memory['cpu']:.2f}, {memory['reference']:.2f}, {memory['naive']:.2f} GiB",
    )
    yield (
        f"base encoder, forward and backward, {encoder['image_size']} px, batch {encoder['batch']}",
        f"{times['encoder']:.2f} times its Linear layers alone "
        f"(with the time loop {times['encoder with the reference scan']:.2f})",
    )


def rival_rows():
    found = bench("rivals")
    others = {
        "loop": "a time loop in PyTorch",
        "storing loop": "a loop that stores",
        "mambapy": "mambapy",
        "transformers": "transformers without CUDA kernels",
        "compiled loop": "the loop by torch.compile",
    }
    for part in ("scan", "encoder"):
        times = found[part]["times_cpu"]
        shown = [name for name in others if name in times]
        layers = f" of {found['depth']} layers" * (part == "encoder")
        yield (
            f"{part}{layers}, {found['tokens']} tokens, batch {found['batch']}, beside "
            + "; ".join(others[name] for name in shown),
            "; ".join(f"{times[name]:.1f}" for name in shown) + " times as long",
        )
    for part, seconds in found["growth"].items():
        one, *more = (name for name in seconds if "tokens" in name)
        yield (
            f"– {part}: {'; '.join(more)}, over {one}",
            "; ".join(f"{seconds[name] / seconds[one]:.1f}" for name in more) + " times as long",
        )
    scan, shared = found["growth"]["scan"], found["processes"]
    yield "– scan: N = 8 over N = 16", f"{scan['N = 8'] / scan['N = 16']:.2f} times as long"
    yield (
        "– encoder: one batch in two processes of one thread, over one process",
        f"{shared['2'] / shared['1']:.2f} times as long (efficiency {shared['efficiency']:.2f})",
    )


def language_rows():
    train, write = bench("train"), bench("generate")
    longer, times, flops = train["times_as shipped"], write["times_as shipped"], write["times_flops"]
    hybrid = {row["beams"]: row["ratio"] for row in bench("hybrid")["rows"]}
    every, head = longer["all weights get gradients"], longer["lm_head on every position"]
    kv, again = "visual K/V at every step", "images encoded for every beam"
    yield (
        f"stage 3, one step: {train['layers']} layers of SmolLM2's shape, "
        f"{train['positions']} positions, {train['report_positions']} of them report",
        f"{train['seconds']['as shipped']:.2f} s",
    )
    yield (
        "– if all weights get gradients; if lm_head reads every position",
        f"{every:.2f}; {head:.2f} times as long",
    )
    yield (
        "– the warm part, from stored tokens",
        f"{longer['warm part, from encoder tokens']:.2f} times as long",
    )
    yield (
        f"reports, {write['beams']} beams: if visual K/V are made at every step; "
        "if images are encoded for every beam",
        f"{times[kv]:.2f}; {times[again]:.2f} times as long (FLOPs: {flops[kv]:.2f}; {flops[again]:.2f})",
    )
    yield (
        "four hybrid layers of eight, of Qwen1.5-1.8B's layer shape: reports, beside the plain LLM",
        f"{hybrid[1]:.2f} (greedy), {hybrid[3]:.2f} (3 beams) times as long",
    )


def image_rows():
    data = bench("data")
    for shape in ("512x624", "2048x2500"):
        first, second = (data[shape][f"{epoch}_epoch_seconds"] for epoch in ("first", "second"))
        yield (
            f"{data['files']:,} PNG files of {shape.replace('x', ' × ')} decoded and resized to "
            f"{data['side']} px; again from the cache",
            f"{first:.0f} s; {second:.1f} s",
        )
    for name, made in bench("batch").items():
        yield (
            f"making a batch of `{name}`, {made['images']} images of {made['size']} px: pixels; words; "
            "jitter, which that preset leaves out",
            f"{made['pixels_ms']:.0f}; {made['words_ms']:.0f}; {made['jitter_ms']:.0f} ms of one core",
        )


def benches():
    return markdown(["what", "result"], [*encoder_rows(), *rival_rows(), *language_rows(), *image_rows()])


def full_size():
    figures = bench("full-size")
    steps = (figures[key] for key in ("build_s", "forward_s", "backward_s", "generate_s"))
    cells = [f"{figures['parameters']:,}", f"{figures['trained']:,}", *(f"{s:.1f} s" for s in steps)]
    header = ["parameters", "trained", "build", "loss", "gradients", f"{figures['new_tokens']}-token report"]
    return markdown([*header, "memory"], [[*cells, f"{figures['peak_memory_gib']:.1f} GiB"]])


SHOWN = {  # presets of one row
    ("tiny",): "the report LM (Qwen2), {:.1f} M",
    ("laptop",): "SmolLM2-135M",
    ("iu-xray",): "Qwen1.5-1.8B",
    ("mimic-cxr", "chexpert-plus"): "Llama-2-7B",
    ("mambaxray-vl-base",): "Llama-2-7B-chat",
    ("mambaxray-vl-large",): "Llama-2-7B-chat",
    ("r2gengpt",): "Llama-2-7B-chat",
}


TINY_LM = re.compile(r"llm\.(?!.*cross_attention)")


def presets():
    import torch

    from emrrg_lib.model import EMRRG
    from emrrg_lib.presets import preset

    rows = []
    for names, llm in SHOWN.items():
        config = preset(names[0])
        with torch.device("meta"):
            model = EMRRG.from_sizes(config)
        trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
        sizes, layers = config.encoder, ", ".join(map(str, config.llm.hybrid_layers)) or "none"
        llm = llm.format(sum(p.numel() for n, p in model.named_parameters() if TINY_LM.match(n)) / 1e6)
        kind = (
            "Swin-base"
            if sizes.kind == "hf"
            else f"d = {sizes.embed_dim}, {sizes.depth} blocks, {sizes.patch_size} px patches"
        )
        tuned = {"lora": f"Partial LoRA, r = {config.partial_lora.r}", "full": "tuned whole"}
        rows.append(
            [" ".join(f"`{name}`" for name in names), f"{sizes.image_size} px", kind]
            + [tuned[config.encoder_tuning], llm, layers, f"{trained / 1e6:.2f} M"]
        )
    header = ["preset", "images", "encoder", "encoder trains", "LLM, frozen", "hybrid layers", "trained"]
    return markdown(header, rows)


def costs():
    from emrrg_lib.cli import main

    lines = []
    for name in ("iu-xray", "mimic-cxr"):
        with contextlib.redirect_stdout(io.StringIO()) as said:
            assert main(["ledger", "--preset", name, "--costs"]) == 0
        lines += [line for line in said.getvalue().splitlines() if line.startswith("|")][2 if lines else 0 :]
    return "".join(f"{line}\n" for line in lines)


def hours():
    from emrrg_lib.run.costs import describe_hours

    return describe_hours().split("\n\n")[0] + "\n"
