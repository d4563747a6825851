#!/usr/bin/env python3
"""Times other software on the shapes of Lombard's GPU benchmarks, and compares where gpu_check has been run.

    python3 tools/gpu_compare/compare.py gpu_check_results          # after launch/gpu_check: reads and writes this folder
    python3 tools/gpu_compare/compare.py --device cpu --small DIR   # does it run at all? The figures say nothing

Needs PyTorch; FlashInfer and transformers take part where they are installed. Medians, cold L2. Writes DIR/gpu_compare.json:
{"device", "software", "rows": [{"name", "software", "median_us", "ours_us", "ratio"}]}; ratio is theirs / ours, above 1 we are faster.
"""
import argparse
import importlib.metadata
import json
import pathlib

import torch

import attention
import timing
import whole_model


def our_medians(folder):
    """name -> microseconds, of all benchmarks that gpu_check ran: {"rows": [{"name", "median_us"}]} each."""
    path = folder / "gpu_check.json"
    if not path.exists():
        return {}
    benchmarks = json.loads(path.read_text())["benchmarks"]
    return {row["name"]: row["median_us"] for one in benchmarks.values() for row in one.get("rows", []) if "median_us" in row}


def version(package):
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=pathlib.Path, help="with gpu_check.json, where there is one; gets gpu_compare.json")
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--small", action="store_true", help="toy shapes")
    parser.add_argument("--rounds", type=int, default=21)
    args = parser.parse_args()
    if args.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("no GPU that PyTorch could use; nothing was measured")
    ours = our_medians(args.folder)
    software = {name: version(name) for name in ("torch", "flashinfer-python", "transformers")}
    device = torch.cuda.get_device_name() if args.device == "cuda" else "cpu"
    print(device, software, "toy shapes" if args.small else "")

    heads, kv_heads, dim, dtype = (4, 2, 16, torch.float32) if args.small else (32, 8, 128, torch.bfloat16)
    shapes = [(2, 64), (1, 128)] if args.small else [(32, 8192), (8, 32768), (1, 8192), (1, 131072), (1, 1 << 20)]
    rows = []

    def add(found):
        for row in found:
            row["ours_us"] = ours.get(row["name"])
            row["ratio"] = row["median_us"] / row["ours_us"] if row["ours_us"] else None
            rows.append(row)
            beside = f"{row['ours_us']:12.1f} us ours, ratio {row['ratio']:.2f}" if row["ratio"] else "   no figure of ours"
            print(f"{row['name']:22} {row['software']:28} {row['median_us']:12.1f} us {beside}", flush=True)

    add(attention.measure(timing.Timer(args.device), shapes, heads, kv_heads, dim, dtype, args.rounds))
    batches, context = ([1, 2], 16) if args.small else ([1, 8, 64, 256], 1024)
    add(whole_model.measure(args.device, dtype, batches, context, min(args.rounds, 5), args.small))
    args.folder.mkdir(parents=True, exist_ok=True)
    (args.folder / "gpu_compare.json").write_text(
        json.dumps({"device": device, "small": args.small, "software": software, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
