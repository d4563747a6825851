"""Decode attention of others: one query token a sequence, the heads of Llama 3 8B."""
import torch
import torch.nn.functional as F

PAGE_TOKENS = 16


def sdpa(q, k, v):
    """PyTorch: K and V in one piece a sequence, [B, kv_heads, S, D]."""
    q = q.unsqueeze(2)
    return lambda: F.scaled_dot_product_attention(q, k, v, enable_gqa=True).squeeze(2)


def flashinfer(q, k, v, tensor_cores):
    """FlashInfer: paged, [pages, 2, page, kv_heads, D]; None where it is not installed."""
    try:
        import flashinfer as fi
    except ImportError:
        return None
    batch, kv_heads, tokens, dim = k.shape
    pages = batch * tokens // PAGE_TOKENS
    pool = torch.stack([x.transpose(1, 2).reshape(pages, PAGE_TOKENS, kv_heads, dim) for x in (k, v)], dim=1).contiguous()
    device = q.device
    begins = torch.arange(0, pages + 1, tokens // PAGE_TOKENS, dtype=torch.int32, device=device)
    order = torch.arange(pages, dtype=torch.int32, device=device)
    last = torch.full((batch,), PAGE_TOKENS, dtype=torch.int32, device=device)
    wrapper = fi.BatchDecodeWithPagedKVCacheWrapper(
        torch.empty(256 << 20, dtype=torch.uint8, device=device), "NHD", use_tensor_cores=tensor_cores)
    wrapper.plan(begins, order, last, q.shape[1], kv_heads, dim, PAGE_TOKENS, q_data_type=q.dtype, kv_data_type=k.dtype)
    return lambda: wrapper.run(q, pool)


def measure(timer, shapes, heads, kv_heads, dim, dtype, rounds):
    """shapes: (batch, context). Yields rows; an implementation whose answer differs from SDPA's is an error."""
    device = timer.device
    for batch, tokens in shapes:
        torch.manual_seed(1)
        q = torch.randn(batch, heads, dim, dtype=dtype, device=device)
        k, v = (torch.randn(batch, kv_heads, tokens, dim, dtype=dtype, device=device) for _ in range(2))
        runs = {"PyTorch SDPA": sdpa(q, k, v)}
        if device.type == "cuda":
            for name, tensor_cores in (("FlashInfer", False), ("FlashInfer, tensor cores", True)):
                run = flashinfer(q, k, v, tensor_cores)
                if run is not None:
                    runs[name] = run
        want = runs["PyTorch SDPA"]().float()
        for name, run in runs.items():
            off = ((run().float() - want).abs().max() / want.abs().max()).item()
            if not off < 0.03:  # a few roundings of bf16 (2^-8), which only tells a wrong layout from a right one
                raise SystemExit(f"{name}, {batch} x {tokens}: off by {off:.3f} of the largest")
        kv_bytes = 2 * k.numel() * k.element_size()
        for name, us in timer.medians_us(runs, rounds).items():
            yield {"name": f"decode/{batch}x{tokens}", "software": name, "median_us": us, "gb_per_s": kv_bytes / us / 1e3}
        del q, k, v, runs, want
        if device.type == "cuda":
            torch.cuda.empty_cache()
