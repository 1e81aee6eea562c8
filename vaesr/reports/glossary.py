"""What the measured numbers are, in a sentence each, for whoever reads a report."""

_WORDS = {
    "accuracy": "share of right decisions",
    "active dimensions": "latent dimensions that carry information",
    "active groups": "groups of latents that carry information",
    "active units": "latent dimensions whose code depends on the image (variance of its mean above 0.01)",
    "adversarial": "the part of the generator's loss that comes from the discriminator",
    "beta": "weight of the KL term",
    "bicubic": "of plain bicubic enlargement, to compare with",
    "bits per code": "what a code of the map costs under the prior; lower is better",
    "bits per dim": "negative log-likelihood per pixel and channel; lower is better",
    "bound": "importance-weighted lower bound of log p(x), with that many samples; higher is better",
    "brier": "squared distance of the predicted probabilities to the truth; lower is better",
    "code bits per image": "what all codes of an image take, each with the same number of bits",
    "code bits with prior": "what all codes of an image take under the prior; lower is better",
    "commitment": "distance of the encoder's output to its code vector",
    "content": "distance of the features that a classification network sees",
    "critic loss": "how well the critic tells real from made; near its threshold the generator learns most",
    "distortion": "negative log-likelihood of the image given its code; lower is better",
    "ece": "expected calibration error: how far confidence is from accuracy; 0 is honest",
    "effective samples": "how many of the importance samples count; few mean a loose bound",
    "elbo": "evidence lower bound of log p(x); higher is better",
    "epistemic": "spread of the prediction over the weights: small near the data, larger away from them",
    "epoch perplexity": "how many codes were in use over the whole split, counted evenly",
    "epoch usage": "share of the codes that were used over the whole split",
    "error": "share of wrong answers; lower is better",
    "fake logit": "the discriminator's output for made images; below 0 it sees through them",
    "frechet distance": "of samples to images, by another network's features (FID with InceptionV3's)",
    "gain": "how much better than bicubic enlargement, or than the input",
    "grad norm": "length of the gradient before it is clipped; jumps mean trouble",
    "input": "of the degraded input itself, to compare with",
    "kernel distance": "of samples to images, by another network's features (KID with InceptionV3's)",
    "kl": "information in the code beyond the prior, KL(q || p)",
    "kl weight": "weight of the KL term, which grows from little to 1",
    "l1": "mean absolute difference of pixels; lower is better",
    "loss": "what training makes smaller; of use only beside others of its kind",
    "lpips": "distance as a network trained on people's judgements sees it; lower is better",
    "lr": "learning rate",
    "moved": "how far the outputs have moved since the turn began",
    "mse": "mean squared difference of pixels in [0, 1]; lower is better",
    "mutual information": "by the part of the uncertainty that is the weights', not the data's",
    "nvae edges": "by the authors' likelihood of 8 bits, whose last two levels overlap: a little too good",
    "niqe": "unnaturalness without a reference; lower is better",
    "norm scales": "largest scale of each batch normalisation, summed",
    "nll": "negative log-likelihood of the right answer; lower is better",
    "ood auroc": "how well uncertainty tells foreign images from its own; 0.5 is chance, 1 is perfect",
    "over draws": "standard deviation from one set of draws of the weights to another",
    "pca": "of principal components of as many numbers, to compare with",
    "perplexity": "how many codes are in use within a batch, counted evenly",
    "pixel": "the part of the loss that compares pixels",
    "pruned": "after so many percent of the weights, the least certain ones, were set to 0",
    "psnr": "peak signal-to-noise ratio against the original; higher is better, 1 dB is visible",
    "rate": "information in the code beyond the prior, KL(q || p)",
    "real logit": "the discriminator's output for real images; above 0 it knows them",
    "reconstruction": "negative log-likelihood of the image given its code; lower is better",
    "rmse": "root of the mean squared error; lower is better",
    "scale": "factor of this batch's enlargement, or of the likelihood",
    "skipped run": "steps in a row that were left out because the gradient was not finite",
    "spectral norms": "largest singular value of each kernel, summed",
    "spectral weight": "weight of the penalty on spectral norms and normalisations' scales",
    "ssim": "structural similarity to the original; 1 is equal",
    "uniform bits per code": "what a code costs if all were equally likely",
    "unigram bits per code": "what a code costs by its frequency alone",
    "usage": "share of the codes that were used within a batch",
}


def explain(name: str) -> str:
    """What a metric is, by the words of its name, for example `psnr_y_db`; "" for one that isn't known.

    The longest known words count; of several the last is told first, which those before only modify.
    """
    words = name.replace("/", "_").lower().split("_")
    spans = [(first, last) for first in range(len(words)) for last in range(first + 1, len(words) + 1)]
    known = [span for span in spans if " ".join(words[slice(*span)]) in _WORDS]
    # What lies within a longer one is no word of its own.
    whole = [s for s in known if not any(t[0] <= s[0] and s[1] <= t[1] and t != s for t in known)]
    return "; ".join(_WORDS[" ".join(words[slice(*span)])] for span in reversed(whole))
