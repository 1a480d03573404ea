"""What a step computes besides its matrix products, as kernels in Triton's language (OpenAI's, not NVIDIA's server).

A decoding step is bound by memory and by launches: each kernel does all that stands between two matrix products. They
take the step's plan (`plan.py`), so that a recorded graph serves every step of its number of rows. Arithmetic is fp32,
storage the model's dtype. Under `TRITON_INTERPRET=1` they run on a CPU: so do tests compare them with `qwen2.py`.
"""

# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator"
import triton
import triton.language as tl


@triton.jit
def store_rounded(values, out, scales, row, width, column, inside, EIGHT: tl.constexpr):
    """Stores fp32 values of a row in `out`; with `EIGHT` that is E4M3, and a scale makes the largest 448."""
    if EIGHT:
        largest = tl.max(tl.where(inside, tl.abs(values), 0.0), 0)
        scale = tl.where(largest > 0.0, largest / 448.0, 1.0)
        tl.store(scales + row, scale)
        values = values / scale
    tl.store(out + row * width + column, values.to(out.dtype.element_ty), mask=inside)


@triton.jit
def embed_norm(
    tokens, embedding, weight, hidden, normed, normed_scales, width, eps, EIGHT: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    """hidden = embedding[token]; normed = its RMSNorm. One program a row, `width` elements each."""
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)
    inside = column < width
    token = tl.load(tokens + row).to(tl.int64)
    x = tl.load(embedding + token * width + column, mask=inside, other=0.0)
    tl.store(hidden + row * width + column, x, mask=inside)
    x = x.to(tl.float32)
    scale = 1.0 / tl.sqrt(tl.sum(x * x, 0) / width + eps)
    w = tl.load(weight + column, mask=inside, other=0.0).to(tl.float32)
    store_rounded(x * scale * w, normed, normed_scales, row, width, column, inside, EIGHT)


@triton.jit
def add_norm(
    hidden, delta, row_scales, scales, weight, normed, normed_scales, width, eps,
    EIGHT: tl.constexpr, NORMED: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """hidden += delta; normed = its RMSNorm, in 8 bits with `NORMED`. One program a row.

    With `EIGHT`, `delta` is a product of 8 bits, and wants its row's scale and each column's.
    """
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)
    inside = column < width
    x = tl.load(hidden + row * width + column, mask=inside, other=0.0).to(tl.float32)
    more = tl.load(delta + row * width + column, mask=inside, other=0.0).to(tl.float32)
    if EIGHT:
        more *= tl.load(row_scales + row) * tl.load(scales + column, mask=inside, other=0.0)
    w = tl.load(weight + column, mask=inside, other=0.0).to(tl.float32)  # before the sum, which it need not wait for
    x += more
    rounded = x.to(hidden.dtype.element_ty)
    tl.store(hidden + row * width + column, rounded, mask=inside)
    x = rounded.to(tl.float32)
    scale = 1.0 / tl.sqrt(tl.sum(x * x, 0) / width + eps)
    store_rounded(x * scale * w, normed, normed_scales, row, width, column, inside, NORMED)


@triton.jit
def multiply_row(
    x, weight, bias, out, outputs,
    WIDTH: tl.constexpr, BIASED: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """One row's product with `weight` `[outputs, WIDTH]`. One program `BLOCK_N` outputs, on the ordinary cores.

    `x` is loaded as often as there are outputs, from the cache: in the weights' layout it needs no shared memory, and
    nothing waits between two loads of weights, which is all that such a product is.
    """
    output = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    k = tl.arange(0, BLOCK_K)
    there = output < outputs
    inputs = tl.broadcast_to(x + k[None, :], (BLOCK_N, BLOCK_K))
    rows = weight + output.to(tl.int64)[:, None] * WIDTH + k[None, :]
    acc = tl.zeros([BLOCK_N, BLOCK_K], tl.float32)
    for start in tl.range(0, WIDTH, BLOCK_K, loop_unroll_factor=4):
        inside = tl.broadcast_to((start + k < WIDTH)[None, :], (BLOCK_N, BLOCK_K))
        a = tl.load(inputs + start, mask=inside, other=0.0).to(tl.float32)
        acc += a * tl.load(rows + start, mask=inside & there[:, None], other=0.0).to(tl.float32)
    y = tl.sum(acc, 1)
    if BIASED:
        y += tl.load(bias + output, mask=there, other=0.0).to(tl.float32)
    tl.store(out + output, y.to(out.dtype.element_ty), mask=there)


@triton.jit
def rotate_and_store(
    qkv, row_scales, scales, bias, cos, sin, positions, places, slots, keys, values, slot_stride, capacity,
    EIGHT: tl.constexpr, HEADS: tl.constexpr, KV_HEADS: tl.constexpr, HALF: tl.constexpr, BLOCK_H: tl.constexpr,
):  # fmt: skip
    """Rotary embedding of queries and keys, halves layout (GPT-NeoX); keys and values go to their place in the cache.

    One program a row. `qkv` is `[rows, HEADS + 2 KV_HEADS, 2 HALF]`; its queries are rotated where they are. A place
    below 0 is a padded row's: nothing of it is stored. With `EIGHT`, `qkv` is a product of 8 bits, and wants its scales
    and the bias.
    """
    row = tl.program_id(0).to(tl.int64)
    position = tl.load(positions + row).to(tl.int64)
    place = tl.load(places + row).to(tl.int64)
    slot = tl.load(slots + row).to(tl.int64)
    head = tl.arange(0, BLOCK_H)
    half = tl.arange(0, HALF)
    source = qkv + row * (HEADS + 2 * KV_HEADS) * 2 * HALF + head[:, None] * 2 * HALF + half[None, :]
    known = (head < HEADS + 2 * KV_HEADS)[:, None]
    a = tl.load(source, mask=known, other=0.0)
    b = tl.load(source + HALF, mask=known, other=0.0)
    c = tl.load(cos + position * HALF + half)[None, :]
    s = tl.load(sin + position * HALF + half)[None, :]
    a32, b32 = a.to(tl.float32), b.to(tl.float32)
    if EIGHT:
        of_row = tl.load(row_scales + row)
        column = head[:, None] * 2 * HALF + half[None, :]
        a32 = a32 * of_row * tl.load(scales + column, mask=known, other=0.0)
        b32 = b32 * of_row * tl.load(scales + column + HALF, mask=known, other=0.0)
        a32 += tl.load(bias + column, mask=known, other=0.0).to(tl.float32)
        b32 += tl.load(bias + column + HALF, mask=known, other=0.0).to(tl.float32)
        a, b = a32.to(a.dtype), b32.to(b.dtype)
    first = (a32 * c - b32 * s).to(a.dtype)
    second = (b32 * c + a32 * s).to(a.dtype)
    is_query = (head < HEADS)[:, None]
    tl.store(source, first, mask=is_query)
    tl.store(source + HALF, second, mask=is_query)
    kv = (head - HEADS).to(tl.int64)
    is_key = ((kv >= 0) & (kv < KV_HEADS))[:, None] & (place >= 0)
    is_value = ((kv >= KV_HEADS) & (kv < 2 * KV_HEADS))[:, None] & (place >= 0)
    base = slot * slot_stride + place * 2 * HALF
    target = base + kv[:, None] * capacity * 2 * HALF + half[None, :]
    tl.store(keys + target, first, mask=is_key)
    tl.store(keys + target + HALF, second, mask=is_key)
    target -= KV_HEADS * capacity * 2 * HALF
    tl.store(values + target, a, mask=is_value)
    tl.store(values + target + HALF, b, mask=is_value)


@triton.jit
def attend(
    qkv, keys, values, out, partial, stats, blocks, visible, scale, slot_stride, capacity, rows_total, splits,
    HEADS: tl.constexpr, KV_HEADS: tl.constexpr, DIM: tl.constexpr, BLOCK_M: tl.constexpr, SPLIT: tl.constexpr,
):  # fmt: skip
    """Tree attention over the cache in place. One program a block of rows, a KV head, and a part of the entries.

    A block's `BLOCK_M` lines are its rows times the query heads that share the KV head. Every row sees the segment's
    cached entries, and of its own rows those whose bit is set in `visible`, 64 to a word (or those before it, where the
    block's `visible` is -1). With `SPLIT`, the parts' sums stay unfinished for `combine`; `scale` holds log2(e).
    """
    GROUP: tl.constexpr = HEADS // KV_HEADS
    BLOCK_N: tl.constexpr = 64
    block, head, split = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    first = tl.load(blocks + block * 8)
    rows = tl.load(blocks + block * 8 + 1)
    slot = tl.load(blocks + block * 8 + 2).to(tl.int64)
    cached = tl.load(blocks + block * 8 + 3)
    offset = tl.load(blocks + block * 8 + 4)
    own_rows = tl.load(blocks + block * 8 + 5)
    bits = tl.load(blocks + block * 8 + 6)
    words = tl.load(blocks + block * 8 + 7)
    if rows == 0:
        return
    if bits < 0:
        own_rows = tl.minimum(own_rows, offset + rows)  # no row of the block sees what comes behind it

    line = tl.arange(0, BLOCK_M)
    row, member = line // GROUP, line % GROUP
    used = row < rows
    at = offset + row
    dim = tl.arange(0, DIM)
    q_head = head * GROUP + member
    q_row = (first + row).to(tl.int64)
    q = tl.load(
        qkv + q_row[:, None] * ((HEADS + 2 * KV_HEADS) * DIM) + q_head[:, None] * DIM + dim[None, :],
        mask=used[:, None],
        other=0.0,
    )
    base = slot * slot_stride + head.to(tl.int64) * capacity * DIM
    entry = tl.arange(0, BLOCK_N)
    most = tl.full([BLOCK_M], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK_M], tl.float32)
    acc = tl.zeros([BLOCK_M, DIM], tl.float32)

    cached_tiles = tl.cdiv(cached, BLOCK_N)
    tiles = cached_tiles + tl.cdiv(own_rows, BLOCK_N)
    each = tl.cdiv(tiles, splits)
    begin = split * each
    end = tl.minimum(begin + each, tiles)
    for tile in range(begin, tl.minimum(end, cached_tiles)):
        n = tile * BLOCK_N + entry
        there = n < cached
        k = tl.load(keys + base + n[:, None] * DIM + dim[None, :], mask=there[:, None], other=0.0)
        v = tl.load(values + base + n[:, None] * DIM + dim[None, :], mask=there[:, None], other=0.0)
        scores = tl.dot(q, tl.trans(k), input_precision="ieee") * scale
        scores = tl.where(there[None, :], scores, float("-inf"))
        higher = tl.maximum(most, tl.max(scores, 1))
        p = tl.exp2(scores - higher[:, None])
        shrink = tl.exp2(most - higher)
        total = total * shrink + tl.sum(p, 1)
        acc = acc * shrink[:, None] + tl.dot(p.to(v.dtype), v, input_precision="ieee")
        most = higher
    for tile in range(tl.maximum(begin, cached_tiles), end):
        own = (tile - cached_tiles) * BLOCK_N + entry
        there = own < own_rows
        n = cached + own
        k = tl.load(keys + base + n[:, None] * DIM + dim[None, :], mask=there[:, None], other=0.0)
        v = tl.load(values + base + n[:, None] * DIM + dim[None, :], mask=there[:, None], other=0.0)
        word = tl.load(visible + bits + at * words + (tile - cached_tiles), mask=used & (bits >= 0), other=0)
        seen = ((word[:, None] >> entry[None, :].to(tl.int64)) & 1) != 0
        seen = tl.where(bits >= 0, seen, own[None, :] <= at[:, None]) & there[None, :]
        scores = tl.dot(q, tl.trans(k), input_precision="ieee") * scale
        scores = tl.where(seen, scores, float("-inf"))
        higher = tl.maximum(most, tl.max(scores, 1))
        finite = tl.where(higher == float("-inf"), 0.0, higher)
        p = tl.exp2(scores - finite[:, None])
        shrink = tl.exp2(most - finite)
        total = total * shrink + tl.sum(p, 1)
        acc = acc * shrink[:, None] + tl.dot(p.to(v.dtype), v, input_precision="ieee")
        most = higher

    line_of = q_row * HEADS + q_head
    if SPLIT:
        line_of += split.to(tl.int64) * rows_total * HEADS
        tl.store(partial + line_of[:, None] * DIM + dim[None, :], acc, mask=used[:, None])
        tl.store(stats + line_of * 2, most, mask=used)
        tl.store(stats + line_of * 2 + 1, total, mask=used)
    else:
        result = (acc / total[:, None]).to(out.dtype.element_ty)
        tl.store(out + line_of[:, None] * DIM + dim[None, :], result, mask=used[:, None])


@triton.jit
def combine(partial, stats, out, lines, splits, DIM: tl.constexpr, BLOCK_S: tl.constexpr):
    """Joins the parts of `attend`: one program a line, that is a row's query head; `lines` of them in a part."""
    line = tl.program_id(0).to(tl.int64)
    part = tl.arange(0, BLOCK_S)
    dim = tl.arange(0, DIM)
    at = part.to(tl.int64) * lines + line
    inside = part < splits
    most = tl.load(stats + at * 2, mask=inside, other=float("-inf"))
    total = tl.load(stats + at * 2 + 1, mask=inside, other=0.0)
    highest = tl.max(most, 0)
    weight = tl.exp2(most - tl.where(highest == float("-inf"), 0.0, highest))
    # A padded row has no parts: nobody has written its memory.
    written = inside & (total > 0.0)
    acc = tl.load(partial + at[:, None] * DIM + dim[None, :], mask=written[:, None], other=0.0)
    sums = tl.sum(acc * weight[:, None], 0)
    whole = tl.sum(total * weight, 0)
    result = sums / tl.where(whole == 0.0, 1.0, whole)
    tl.store(out + line * DIM + dim, result.to(out.dtype.element_ty))


@triton.jit
def silu_times(gate_up, out, width, BLOCK: tl.constexpr):
    """out = silu(gate) * up, `gate_up` being `[rows, 2 width]`. One program a row and `BLOCK` columns."""
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = column < width
    gate = tl.load(gate_up + row * 2 * width + column, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(gate_up + row * 2 * width + width + column, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + row * width + column, (gate / (1.0 + tl.exp(-gate)) * up).to(out.dtype.element_ty), mask=inside)


@triton.jit
def silu_times_in_eight(
    gate_up, row_scales, scales, out, out_scales, width, BLOCK: tl.constexpr
):  # fmt: skip
    """The same of a product of 8 bits, into 8 bits. One program a row."""
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)
    inside = column < width
    of_row = tl.load(row_scales + row)
    gate = tl.load(gate_up + row * 2 * width + column, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(gate_up + row * 2 * width + width + column, mask=inside, other=0.0).to(tl.float32)
    gate *= of_row * tl.load(scales + column, mask=inside, other=0.0)
    up *= of_row * tl.load(scales + width + column, mask=inside, other=0.0)
    store_rounded(gate / (1.0 + tl.exp(-gate)) * up, out, out_scales, row, width, column, inside, True)


@triton.jit
def round_rows(x, out, out_scales, width, BLOCK: tl.constexpr):
    """A row in 8 bits. One program a row."""
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)
    inside = column < width
    values = tl.load(x + row * width + column, mask=inside, other=0.0).to(tl.float32)
    store_rounded(values, out, out_scales, row, width, column, inside, True)


@triton.jit
def choose_in_tiles(
    normed, head, wanted, tops, places, rows, width, vocab, tiles,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """The largest logit of each row in a tile of the vocabulary, in fp32, and its token: logits are never written.

    One program a tile of `BLOCK_N` tokens and a block of rows, rows varying fastest, so that they share the weights'
    tile in the cache. `head` is `[vocab, width]`; `tops` and `places` are `[rows, tiles]`. A block without a `wanted`
    row does nothing.
    """
    block, tile = tl.program_id(0), tl.program_id(1)
    row = block * BLOCK_M + tl.arange(0, BLOCK_M)
    if tl.max(tl.load(wanted + row, mask=row < rows, other=0), 0) == 0:
        return
    token = tile * BLOCK_N + tl.arange(0, BLOCK_N)
    k = tl.arange(0, BLOCK_K)
    a = normed + row.to(tl.int64)[:, None] * width + k[None, :]
    b = head + token.to(tl.int64)[:, None] * width + k[None, :]
    acc = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    for start in range(0, width, BLOCK_K):
        inside = start + k < width
        x = tl.load(a + start, mask=(row < rows)[:, None] & inside[None, :], other=0.0)
        w = tl.load(b + start, mask=(token < vocab)[:, None] & inside[None, :], other=0.0)
        acc = tl.dot(x, tl.trans(w), acc, input_precision="ieee")
    acc = tl.where((token < vocab)[None, :], acc, float("-inf"))
    top, place = tl.max(acc, 1, return_indices=True, return_indices_tie_break_left=True)
    at = row * tiles + tile
    tl.store(tops + at, top, mask=row < rows)
    tl.store(places + at, tile * BLOCK_N + place, mask=row < rows)


@triton.jit
def choose(wanted, tops, places, choices, tiles, BLOCK: tl.constexpr):
    """The most likely token of each row, of equal ones the first. One program a row."""
    row = tl.program_id(0)
    if tl.load(wanted + row) == 0:
        return
    tile = tl.arange(0, BLOCK)
    top = tl.load(tops + row * tiles + tile, mask=tile < tiles, other=float("-inf"))
    best = tl.argmax(top, 0, tie_break_left=True)
    tl.store(choices + row, tl.load(places + row * tiles + best))


@triton.jit
def move_entries(keys, values, movers, moves, layer_stride, slot_stride, capacity, DIM: tl.constexpr):
    """Brings the entries of accepted drafts behind their root's. One program a layer, a KV head, and a sequence.

    `movers` has a slot, a first move and a number of moves each; a move goes from an entry to a lower one. In ascending
    order no move writes what a later one reads.
    """
    layer = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1).to(tl.int64)
    mover = tl.program_id(2)
    slot = tl.load(movers + mover * 3).to(tl.int64)
    first = tl.load(movers + mover * 3 + 1)
    count = tl.load(movers + mover * 3 + 2)
    dim = tl.arange(0, DIM)
    base = layer * layer_stride + slot * slot_stride + head * capacity * DIM + dim
    for move in range(first, first + count):
        source = base + tl.load(moves + move * 2).to(tl.int64) * DIM
        target = base + tl.load(moves + move * 2 + 1).to(tl.int64) * DIM
        tl.store(keys + target, tl.load(keys + source))
        tl.store(values + target, tl.load(values + source))
