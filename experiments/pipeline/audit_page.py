"""What an audit found: as a document, in plain words, and as a page."""

from pathlib import Path
from typing import Any

from matplotlib.figure import Figure as Canvas

from experiments.pipeline.auditing import EPSILON, Claim, Recovered, Subject
from fedrecon import attacks
from fedrecon.reporting import Figure, Section, Table, write_report

# PSNR or SSIM above those of the mean public image from which a picture counts as recovered.
_MARGINS = {"psnr": 3.0, "ssim": 0.15}
_NAMES = {
    "unprotected": "unprotected",
    "secure sum": "secure sum",
    "noise": f"differential privacy, ε = {EPSILON:g}",
}


def document(
    subject: Subject,
    recovered: Recovered,
    members: attacks.Membership,
    claim: Claim,
    canaries: attacks.CanaryAudit | str,
) -> dict[str, Any]:
    """All numbers, by audit."""
    found = {
        name: {
            "psnr": float(match.psnr[0]),
            "ssim": float(match.ssim[0]),
            **({"kspace_error": recovered.kspace_error[name]} if recovered.kspace_error else {}),
        }
        for name, match in recovered.matches.items()
    }
    first = recovered.matches["unprotected"]
    inversion = {
        "site": recovered.site,
        "sites_in_sum": recovered.others,
        "model": recovered.model,
        "noise_multiplier": recovered.noises["noise"][0],
        "clipping_norm": recovered.noises["noise"][1],
        "found": found,
        "random_guess": {"psnr": first.random_psnr, "ssim": first.random_ssim},
        "mean_image": {"psnr": first.mean_psnr, "ssim": first.mean_ssim},
    }
    if recovered.labels is not None:
        inversion["label"] = {"recovered": recovered.labels[0], "true": recovered.labels[1]}
    audit: dict[str, Any] = {"claim": claim._asdict()}
    if isinstance(canaries, str):
        audit["reason"] = canaries
    else:
        audit |= {
            "lower": canaries.lower,
            "estimate": canaries.estimate,
            "confidence": 1 - canaries.significance,
            "canaries": canaries.canaries,
            "consistent": canaries.consistent(claim.epsilon),
        }
    return {
        "task": subject.kind,
        "algorithm": subject.run.config["algorithm"],
        "private": claim.claimed,
        "inversion": inversion,
        "membership": members._asdict(),
        "canaries": audit,
    }


def verdict(found: dict[str, Any]) -> str:
    """One paragraph for a reader who knows nothing of the attacks."""
    inversion = found["inversion"]
    guess = inversion["mean_image"]

    def seen(name: str) -> bool:
        """Whether a picture shows more than the mean image."""
        return any(inversion["found"][name][m] > guess[m] + margin for m, margin in _MARGINS.items())

    def figures(values: dict[str, Any]) -> str:
        return f"{values['psnr']:.1f} dB, SSIM {values['ssim']:.2f}"

    recovers = "recovers its image" if seen("unprotected") else "does not, by this attack, recover its image"
    words = [
        f"Whoever sees a single update of one example {recovers} better than by a guess: "
        f"{figures(inversion['found']['unprotected'])}, where the mean image of other sites has "
        f"{figures(guess)}."
    ]
    for name in ("secure sum", "noise"):
        if name in inversion["found"]:
            rest = ", which shows more than that guess" if seen(name) else ", no better than that guess"
            what = f"With the noise of ε = {EPSILON:g}"
            if name == "secure sum":
                what = f"In a secure sum of {inversion['sites_in_sum']} sites"
            words.append(f"{what} the attack reaches {figures(inversion['found'][name])}{rest}.")
    members = found["membership"]
    low, high = members["auc_interval"]
    told = low > 0.5
    words.append(
        f"Examples of the training {'can' if told else 'cannot'} be told from those of other patients by the "
        f"released model (AUC {members['auc']:.2f}, 95 % interval {low:.2f} to {high:.2f})."
    )
    canaries = found["canaries"]
    claim = canaries["claim"]
    if not claim["claimed"]:
        words.append("The run claims no differential privacy.")
    if "lower" in canaries:
        side = "at most" if canaries["consistent"] else "MORE THAN"
        whose, noise = ("the claimed", "its") if claim["claimed"] else ("the planned", "such")
        words.append(
            f"Canaries prove an ε of at least {canaries['lower']:.2f} of {noise} noise, "
            f"{side} {whose} {claim['epsilon']:.2f}."
        )
        if not canaries["consistent"]:
            words.append("The claim is refuted: do not release this model.")
    else:
        words.append(f"No canary audit: {canaries['reason']}.")
    return " ".join(words)


def write_page(folder: Path, found: dict[str, Any], recovered: Recovered) -> None:
    """Writes ``audit.html`` and ``audit.png``."""
    picture = folder / "audit.png"
    _draw(picture, recovered)
    inversion, members = found["inversion"], found["membership"]
    rows = [
        [_NAMES[name], f"{x['psnr']:.2f}", f"{x['ssim']:.3f}"]
        + ([f"{x['kspace_error']:.2f}"] if "kspace_error" in x else [])
        for name, x in inversion["found"].items()
    ]
    for name in ("mean_image", "random_guess"):
        x = inversion[name]
        extra = ["–"] if "kspace_error" in inversion["found"]["unprotected"] else []
        rows.append([name.replace("_", " "), f"{x['psnr']:.2f}", f"{x['ssim']:.3f}", *extra])
    header = ["update", "PSNR, dB", "SSIM"] + (["k-space error"] if len(rows[0]) > 3 else [])
    sites = "one site" if inversion["sites_in_sum"] == 1 else f"{inversion['sites_in_sum']} sites"
    text = [
        f"The update is one step on one example of {inversion['site']}, the worst case: updates of a round "
        f"mix more examples and steps. The attacker knows the {inversion['model']} model, the task, and of "
        "reconstructions the sampling and the coil maps, and starts near the mean image of other sites. The "
        f"secure sum has {sites}; the noise is {inversion['noise_multiplier']:.2f} clipping norms of "
        f"{inversion['clipping_norm']:g}."
    ]
    if "label" in inversion:
        label = inversion["label"]
        text.append(f"The last layer gives the label away as {label['recovered']}; it is {label['true']}.")
    low, high = members["auc_interval"]
    tpr = members["tpr_1_interval"]
    membership = Table(
        "Loss attack on the released model",
        ["figure", "value", "95 % interval"],
        [
            ["AUC (0.5 is a guess)", f"{members['auc']:.3f}", f"{low:.3f} to {high:.3f}"],
            [
                "found at 1 % false alarms",
                _rate(members["tpr_1"], members["others"], 100),
                f"{tpr[0]:.3f} to {tpr[1]:.3f}",
            ],
            ["found at 0.1 % false alarms", _rate(members["tpr_0_1"], members["others"], 1000), "–"],
        ],
    )
    canaries, claim = found["canaries"], found["canaries"]["claim"]
    source = f"{claim['source']}: {claim['site']}, unit {claim['unit']}, δ = {claim['delta']:.2g}"
    kind = ("claimed" if claim["claimed"] else "planned") + " (upper bound)"
    audit_rows = [[kind, f"{claim['epsilon']:.3f}", source]]
    if "lower" in canaries:
        confidence = f"{canaries['canaries']} canaries, {100 * canaries['confidence']:.0f} % confidence"
        audit_rows.append(["proved (lower bound)", f"{canaries['lower']:.3f}", confidence])
        audit_rows.append(["estimate, if scores are normal", f"{canaries['estimate']:.3f}", "no bound"])
    else:
        audit_rows.append(["proved", "–", canaries["reason"]])
    caption = "The original, and what the attacker recovers of it: " + ", ".join(
        _NAMES[name] for name in inversion["found"]
    )
    sections = [
        Section("Verdict", [found["verdict"]]),
        Section("Recovered images", text, [Table("Inversion", header, rows)], [Figure(picture, caption)]),
        Section(
            "Membership",
            [f"{members['members']} examples of the training against {members['others']} of test patients."],
            [membership],
        ),
        Section(
            "Privacy loss",
            ["ε of one unit of the site with the largest: what is claimed, and what an attack proves."],
            [Table("Canaries", ["ε", "value", "of"], audit_rows, prose=True)],
        ),
        Section(
            "What this does not show",
            [
                "An attack that fails proves nothing of better ones; a bound that is proved holds. The page "
                "shows an image of the run's data: keep it where those may be."
            ],
        ),
    ]
    private = "with" if found["private"] else "without"
    lead = f"{found['task']} by {found['algorithm']}, {private} differential privacy"
    write_report(folder / "audit.html", "Privacy audit", lead, sections)


def _rate(value: float, others: int, needed: int) -> str:
    """A true-positive rate; with fewer other examples than one false alarm takes, it is that without any."""
    return f"{value:.3f}" if others >= needed else f"{value:.3f}, without any among {others}"


def _draw(path: Path, recovered: Recovered) -> None:
    pictures = recovered.pictures
    low, high = float(pictures["original"].min()), float(pictures["original"].max())
    figure = Canvas(figsize=(2.5 * len(pictures), 3.1), dpi=110, layout="constrained")
    for axis, (name, image) in zip(figure.subplots(1, len(pictures)), pictures.items(), strict=True):
        axis.imshow(image, cmap="gray", vmin=low, vmax=high)
        axis.set_axis_off()
        title = _NAMES.get(name, name).replace("differential privacy, ", "privacy, ")
        match = recovered.matches.get(name)
        axis.set_title(f"{title}\n" + (f"{float(match.psnr[0]):.1f} dB" if match else ""), fontsize=10)
    figure.savefig(path)
