"""The explanations of single pictures: one line each, in the order in which a page shows them."""

from __future__ import annotations

from functools import partial

from isopatch.explain.attention import without_attention
from isopatch.explain.attention_maps import attention_maps, by_layer_and_head
from isopatch.explain.checked import checked_figures, prepared, stem
from isopatch.explain.contract import Context, Explanation, Figure
from isopatch.explain.gradcam import grad_cam_maps, without_feature_map
from isopatch.explain.integrated import integrated_maps, without_captum
from isopatch.explain.mosaic import draw_heads
from isopatch.explain.occlusion import occlusion_maps
from isopatch.explain.rollout import gradient_rollout_maps, rollout_maps, without_rollout
from isopatch.nn.classifier import Classifier


def attention_figures(context: Context) -> list[Figure]:
    """The last layer's attention over each picture, and every head of every layer."""
    figures = checked_figures(
        context,
        attention_maps,
        title="Attention",
        caption="From where one layer's attention reads, the mean of its heads; bright is much. The class "
        "plays no part in it.",
    )
    x, _, _ = prepared(context)
    for index, shown in enumerate(context.pictures):
        for reader, layers in by_layer_and_head(context.model, x[index : index + 1]).items():
            figures.append(
                Figure(
                    name=f"{index + 1}-{stem(shown.name)}-heads-{reader.replace(' ', '-')}",
                    title=f"Every head, {reader}: {shown.name}",
                    caption=f"Attention of the {reader} in every layer and head, over the patches of the "
                    "grid. Each small map has its own scale, dark its least value, bright its greatest: "
                    "they tell where a head looks, not how much it matters. Single heads are not checked: "
                    "the checks ask whether a map finds what the class needs, which one head of many does "
                    "not claim. The mean of one layer's heads is, in the figure of its own.",
                    png=draw_heads(reader, [layer.numpy() for layer in layers]),
                    data={"picture": shown.name, "layers": len(layers), "heads": len(layers[0])},
                )
            )
    return figures


def without_nothing(model: Classifier) -> str | None:
    """Every classifier has what covering its pictures needs."""
    return None


EXPLANATIONS = (
    Explanation(
        name="attention",
        question="where does the token that is classified attend?",
        needs="pictures",
        missing=without_attention,
        make=attention_figures,
        source="Dosovitskiy et al. 2020, appendix A; Touvron et al. 2021, section 4",
    ),
    Explanation(
        name="rollout",
        question="from which patches does it draw, through all layers?",
        needs="pictures",
        missing=without_rollout,
        make=partial(
            checked_figures,
            method=rollout_maps,
            title="Rollout",
            caption="The layers' attention multiplied, half of each layer being its skip: from which patches "
            "the reader draws; bright is much. The class plays no part in it.",
        ),
        source="Abnar and Zuidema 2020, section 3; Dosovitskiy et al. 2020, appendix D.8",
    ),
    Explanation(
        name="gradient-rollout",
        question="the same, keeping what raises the class?",
        needs="pictures",
        missing=without_rollout,
        make=partial(
            checked_figures,
            method=gradient_rollout_maps,
            title="Gradient rollout",
            caption="Attention times the gradient of the class's logit, what is positive, summed through the "
            "layers; bright is much.",
        ),
        source="Chefer et al. 2021 (Generic attention-model explainability), equations 5 and 6",
    ),
    Explanation(
        name="grad-cam",
        question="which places of the last features speak for the class?",
        needs="pictures",
        missing=without_feature_map,
        make=partial(
            checked_figures,
            method=grad_cam_maps,
            title="Grad-CAM",
            caption="The last features that the class's logit depends on, weighted by their gradient, what "
            "is positive; bright is much.",
        ),
        source="Selvaraju et al. 2017, equations 1 and 2",
    ),
    Explanation(
        name="occlusion",
        question="what happens to the class when a place is covered?",
        needs="pictures",
        missing=without_nothing,
        make=partial(
            checked_figures,
            method=occlusion_maps,
            title="Occlusion",
            caption="How far log p(class) falls when a window takes the picture's mean colour: red, the "
            "class needs the place; blue, covering it helps the class.",
        ),
        source="Zeiler and Fergus 2014, section 4.2",
    ),
    Explanation(
        name="integrated-gradients",
        question="what does each patch add to the class over a blank picture?",
        needs="pictures",
        missing=without_captum,
        make=partial(
            checked_figures,
            method=integrated_maps,
            title="Integrated gradients",
            caption="What each patch adds to the class's logit on the way from the picture's mean colour to "
            "the picture: red raises it, blue lowers it; all patches add up to the whole rise.",
        ),
        source="Sundararajan et al. 2017, equation 1 and proposition 1",
    ),
)
