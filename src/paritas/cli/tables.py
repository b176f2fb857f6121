"""What commands print for people: rows in columns, and certificates."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from paritas.engine.bundle.manifest import Certificate


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Return rows in aligned columns; numbers to the right."""
    cells = [list(header), *([str(value) for value in row] for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(header))]
    numeric = [
        bool(rows) and all(isinstance(row[column], (int, float)) for row in rows)
        for column in range(len(header))
    ]
    lines = []
    for row in cells:
        padded = [
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(row, widths, numeric, strict=True)
        ]
        lines.append("  ".join(padded).rstrip())
    return "\n".join(lines)


def certificate_table(certificates: dict[Any, Certificate]) -> str:
    """Return certificates as a table: a row for each precision and role, for INT8 also for each length."""
    rows: list[list[object]] = []
    for precision, certificate in certificates.items():
        parts = dict(certificate.by_role)
        if precision == "int8":
            parts |= {f"{tokens} tokens": figures for tokens, figures in certificate.by_length.items()}
        for name, figures in parts.items():
            rows.append(
                [
                    precision,
                    name,
                    figures.probes,
                    f"{figures.max_abs_diff:.1e}",
                    f"{figures.min_cosine:.7f}",
                    f"{figures.p1_cosine:.7f}",
                    f"{figures.mean_cosine:.7f}",
                    _bound(certificate) if name in certificate.by_role else "",
                    certificate.reference,
                ]
            )
    header = [
        "precision",
        "texts",
        "probes",
        "max diff",
        "min cosine",
        "1st percentile",
        "mean cosine",
        "bound",
        "reference",
    ]
    lines = [table(header, rows)]
    for precision, certificate in certificates.items():
        if (found := certificate.retrieval) is not None:
            lines.append(
                f"{precision} on {found.collection} ({found.documents} documents, {found.queries} queries): "
                f"nDCG@10 {found.ndcg:.2f}, FP32 {found.ndcg_fp32:.2f}; recall@10 {found.recall:.4f}"
            )
    return "\n".join([*lines, *_places(certificates)])


def _places(certificates: dict[Any, Certificate]) -> list[str]:
    """Where the certificates were made; one line if all were made in one place."""
    return list(
        dict.fromkeys(
            f"on {certificate.cpu}, onnxruntime {certificate.versions['onnxruntime']}, {certificate.date}"
            + (f"; tokens as {certificate.tokens} has them" if certificate.tokens else "")
            for certificate in certificates.values()
        )
    )


def _bound(certificate: Certificate) -> str:
    parts = []
    if certificate.bound.max_abs_diff is not None:
        parts.append(f"diff <= {certificate.bound.max_abs_diff:g}")
    if certificate.bound.min_cosine is not None:
        parts.append(f"cosine >= {certificate.bound.min_cosine:g}")
    if certificate.bound.mean_cosine is not None:
        parts.append(f"mean >= {certificate.bound.mean_cosine:g}")
    return ", ".join(parts)
