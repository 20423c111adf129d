"""Whom to cite: the papers behind the methods that a report shows, as BibTeX."""

import json
import re
from collections.abc import Iterable

from difflax.evaluation.ablation.results import AblationResult

PAPERS = {
    "ho2022classifier": "Ho, Jonathan and Salimans, Tim|Classifier-Free Diffusion Guidance|2022|2207.12598",
    "chung2024cfgpp": "Chung, Hyungjin and Kim, Jeongsol and Park, Geon Yeong and Nam, Hyelin and Ye, Jong"
    " Chul|CFG++: Manifold-constrained Classifier Free Guidance for Diffusion Models|2024|2406.08070",
    "sadat2024eliminating": "Sadat, Seyedmorteza and Hilliges, Otmar and Weber, Romann M.|Eliminating"
    " Oversaturation and Artifacts of High Guidance Scales in Diffusion Models|2024|2410.02416",
    "fan2025cfgzero": "Fan, Weichen and Zheng, Amber Yijia and Yeh, Raymond A. and Liu, Ziwei|CFG-Zero*:"
    " Improved Classifier-Free Guidance for Flow Matching Models|2025|2503.18886",
    "sadat2025frequency": "Sadat, Seyedmorteza and Vontobel, Tobias and Salehi, Farnood and Weber, Romann"
    " M.|Guidance in the Frequency Domain Enables High-Fidelity Sampling at Low CFG Scales|2025|2506.19713",
    "liu2022compositional": "Liu, Nan and Li, Shuang and Du, Yilun and Torralba, Antonio and Tenenbaum,"
    " Joshua B.|Compositional Visual Generation with Composable Diffusion Models|2022|2206.01714",
    "brooks2022instruct": "Brooks, Tim and Holynski, Aleksander and Efros, Alexei A.|Instruct{Pix2Pix}:"
    " Learning to Follow Image Editing Instructions|2022|2211.09800",
    "karras2024guiding": 'Karras, Tero and Aittala, Miika and Kynk{\\"a}{\\"a}nniemi, Tuomas and Lehtinen,'
    " Jaakko and Aila, Timo and Laine, Samuli|Guiding a Diffusion Model with a Bad Version of"
    " Itself|2024|2406.02507",
    "ahn2024self": "Ahn, Donghoon and Cho, Hyoungwon and Min, Jaewon and Jang, Wooseok and Kim, Jungwoo and"
    " Kim, SeonHwa and Park, Hyun Hee and Jin, Kyong Hwan and Kim, Seungryong|Self-Rectifying Diffusion"
    " Sampling with Perturbed-Attention Guidance|2024|2403.17377",
    "kynkaanniemi2024applying": 'Kynk{\\"a}{\\"a}nniemi, Tuomas and Aittala, Miika and Karras, Tero and'
    " Laine, Samuli and Aila, Timo and Lehtinen, Jaakko|Applying Guidance in a Limited Interval Improves"
    " Sample and Distribution Quality in Diffusion Models|2024|2404.07724",
    "gao2023masked": "Gao, Shanghua and Zhou, Pan and Cheng, Ming-Ming and Yan, Shuicheng|Masked Diffusion"
    " Transformer is a Strong Image Synthesizer|2023|2303.14389",
    "wang2024analysis": "Wang, Xi and Dufour, Nicolas and Andreou, Nefeli and Cani, Marie-Paule and"
    " Fern{\\'a}ndez Abrevaya, Victoria and Picard, David and Kalogeiton, Vicky|Analysis of Classifier-Free"
    " Guidance Weight Schedulers|2024|2404.13040",
    "lin2023common": "Lin, Shanchuan and Liu, Bingchen and Li, Jiashi and Yang, Xiao|Common Diffusion Noise"
    " Schedules and Sample Steps are Flawed|2023|2305.08891",
    "saharia2022photorealistic": "Saharia, Chitwan and Chan, William and Saxena, Saurabh and Li, Lala"
    " and Whang, Jay and Denton, Emily and Ghasemipour, Seyed Kamyar Seyed and Ayan, Burcu Karagol and"
    " Mahdavi, S. Sara and Lopes, Rapha Gontijo and Salimans, Tim and Ho, Jonathan and Fleet, David J. and"
    " Norouzi, Mohammad|Photorealistic Text-to-Image Diffusion Models with Deep Language"
    " Understanding|2022|2205.11487",
    "ho2020denoising": "Ho, Jonathan and Jain, Ajay and Abbeel, Pieter|Denoising Diffusion Probabilistic"
    " Models|2020|2006.11239",
    "song2020denoising": "Song, Jiaming and Meng, Chenlin and Ermon, Stefano|Denoising Diffusion Implicit"
    " Models|2020|2010.02502",
    "karras2022elucidating": "Karras, Tero and Aittala, Miika and Aila, Timo and Laine, Samuli|Elucidating"
    " the Design Space of Diffusion-Based Generative Models|2022|2206.00364",
    "lu2022dpm": "Lu, Cheng and Zhou, Yuhao and Bao, Fan and Chen, Jianfei and Li, Chongxuan and Zhu,"
    " Jun|DPM-Solver: A Fast ODE Solver for Diffusion Probabilistic Model Sampling in Around 10"
    " Steps|2022|2206.00927",
    "lu2022dpmpp": "Lu, Cheng and Zhou, Yuhao and Bao, Fan and Chen, Jianfei and Li, Chongxuan and Zhu,"
    " Jun|DPM-Solver++: Fast Solver for Guided Sampling of Diffusion Probabilistic Models|2022|2211.01095",
    "zhao2023unipc": "Zhao, Wenliang and Bai, Lujia and Rao, Yongming and Zhou, Jie and Lu, Jiwen|UniPC: A"
    " Unified Predictor-Corrector Framework for Fast Sampling of Diffusion Models|2023|2302.04867",
    "zhang2022fast": "Zhang, Qinsheng and Chen, Yongxin|Fast Sampling of Diffusion Models with Exponential"
    " Integrator|2022|2204.13902",
    "liu2022pseudo": "Liu, Luping and Ren, Yi and Lin, Zhijie and Zhao, Zhou|Pseudo Numerical Methods for"
    " Diffusion Models on Manifolds|2022|2202.09778",
    "song2020score": "Song, Yang and Sohl-Dickstein, Jascha and Kingma, Diederik P. and Kumar, Abhishek and"
    " Ermon, Stefano and Poole, Ben|Score-Based Generative Modeling through Stochastic Differential"
    " Equations|2020|2011.13456",
    "luo2023latent": "Luo, Simian and Tan, Yiqin and Huang, Longbo and Li, Jian and Zhao, Hang|Latent"
    " Consistency Models: Synthesizing High-Resolution Images with Few-Step Inference|2023|2310.04378",
    "zheng2024trajectory": "Zheng, Jianbin and Hu, Minghui and Fan, Zhongyi and Wang, Chaoyue and Ding,"
    " Changxing and Tao, Dacheng and Cham, Tat-Jen|Trajectory Consistency Distillation: Improved Latent"
    " Consistency Distillation by Semi-Linear Consistency Function with Trajectory Mapping|2024|2402.19159",
    "xue2023sa": "Xue, Shuchen and Yi, Mingyang and Luo, Weijian and Zhang, Shifeng and Sun, Jiacheng and Li,"
    " Zhenguo and Ma, Zhi-Ming|SA-Solver: Stochastic Adams Solver for Fast Sampling of Diffusion"
    " Models|2023|2309.05019",
    "heusel2017gans": "Heusel, Martin and Ramsauer, Hubert and Unterthiner, Thomas and Nessler, Bernhard and"
    " Hochreiter, Sepp|GANs Trained by a Two Time-Scale Update Rule Converge to a Local Nash"
    " Equilibrium|2017|1706.08500",
    "kynkaanniemi2022role": 'Kynk{\\"a}{\\"a}nniemi, Tuomas and Karras, Tero and Aittala, Miika and Aila,'
    " Timo and Lehtinen, Jaakko|The Role of ImageNet Classes in Fr{\\'e}chet Inception"
    " Distance|2022|2203.06026",
    "chong2019effectively": "Chong, Min Jin and Forsyth, David|Effectively Unbiased FID and Inception Score"
    " and Where to Find Them|2019|1911.07023",
    "ghosh2023geneval": "Ghosh, Dhruba and Hajishirzi, Hanna and Schmidt, Ludwig|GenEval: An Object-Focused"
    " Framework for Evaluating Text-to-Image Alignment|2023|2310.11513",
    "huang2023t2icompbench": "Huang, Kaiyi and Sun, Kaiyue and Xie, Enze and Li, Zhenguo and Liu, Xihui|"
    "T2I-CompBench: A Comprehensive Benchmark for Open-world Compositional Text-to-image"
    " Generation|2023|2307.06350",
    "hessel2021clipscore": "Hessel, Jack and Holtzman, Ari and Forbes, Maxwell and Le Bras, Ronan and Choi,"
    " Yejin|CLIPScore: A Reference-free Evaluation Metric for Image Captioning|2021|2104.08718",
}
"""Authors, title, year and arXiv number, by the key of the entry."""

T2I_SCORES = ("3_in_1", "blip_vqa", "unidet_2d", "unidet_3d", "numeracy", "clip")
ODE = ("song2020score", "karras2022elucidating")
SOLVER = ("lu2022dpm", "lu2022dpmpp")
CITED: dict[str, tuple[str, ...]] = {
    # guidance
    "cfg": ("ho2022classifier",),
    "cfg_plus_plus": ("chung2024cfgpp",),
    "apg": ("sadat2024eliminating",),
    "cfg_zero_star": ("fan2025cfgzero",),
    "frequency_decoupled": ("sadat2025frequency",),
    "composed": ("liu2022compositional",),
    "two_condition": ("brooks2022instruct",),
    "autoguidance": ("karras2024guiding",),
    "perturbation": ("ahn2024self",),
    "interval": ("kynkaanniemi2024applying",),
    "power_cosine": ("gao2023masked", "wang2024analysis"),
    "rescale": ("lin2023common",),
    "dynamic_threshold": ("saharia2022photorealistic",),
    # samplers
    "ddpm": ("ho2020denoising",),
    "ddim": ("song2020denoising",),
    "euler": ODE,
    "euler_ancestral": ODE,
    "heun": ("karras2022elucidating",),
    "dpm2": SOLVER[:1],
    "dpm2_ancestral": SOLVER[:1],
    "dpmpp_2s": SOLVER,
    "dpmpp_2m": SOLVER,
    "dpmpp_3m": SOLVER,
    "dpmpp_singlestep": SOLVER,
    "dpmpp_sde": SOLVER,
    "dpmpp_2m_sde": SOLVER,
    "dpmpp_3m_sde": SOLVER,
    "unipc": ("zhao2023unipc",),
    "deis": ("zhang2022fast",),
    "lms": ODE,
    "plms": ("liu2022pseudo",),
    "pndm": ("liu2022pseudo",),
    "rk4": ODE[:1],
    "adaptive": ODE[:1],
    "lcm": ("luo2023latent",),
    "tcd": ("zheng2024trajectory",),
    "sa_solver": ("xue2023sa",),
    # metrics
    "frechet_distance": ("heusel2017gans", "kynkaanniemi2022role"),
    "frechet_infinity": ("chong2019effectively",),
    "frechet_bias": ("chong2019effectively",),
    "clip_score": ("hessel2021clipscore",),
    "geneval": ("ghosh2023geneval",),
    **{f"t2i_{score}": ("huang2023t2icompbench",) for score in T2I_SCORES},
}
"""The papers of a method, by the name that it has in configs and on the command line."""


def methods(result: AblationResult) -> list[str]:
    """The methods of `CITED` that a result names: its sampler, its guidance, its axes, its metrics."""
    config = result.provenance.config
    named = [result.provenance.sampler, config.get("guidance", "cfg"), config.get("sampler", "")]
    named += [dict(arm.settings) for arm in result.arms]
    text = json.dumps(named, default=dict).lower()
    found = set(re.findall(r"[a-z0-9_]+", text)) | {each.metric.name for each in result.measured}
    return [name for name in CITED if name in found]


def bibtex(names: Iterable[str]) -> str:
    """The entries of these methods, each once, in alphabetical order."""
    keys = sorted({key for name in names for key in CITED[name]})
    return "\n".join(_entry(key, *PAPERS[key].split("|")) for key in keys)


def _entry(key: str, authors: str, title: str, year: str, number: str) -> str:
    # Double braces keep the capitals of the title.
    fields = {
        "title": f"{{{title}}}",
        "author": authors,
        "year": year,
        "eprint": number,
        "archivePrefix": "arXiv",
    }
    lines = "\n".join(f"  {name:<13} = {{{value}}}," for name, value in fields.items())
    return f"@misc{{{key},\n{lines}\n}}\n"
