"""Define the look of the Space and of the metric pages: system fonts, so that a page requests nothing elsewhere."""

import gradio as gr

THEME = gr.themes.Base(
    primary_hue="blue",
    neutral_hue="slate",
    font=["ui-sans-serif", "system-ui", "sans-serif"],
    font_mono=["ui-monospace", "monospace"],
).set(
    block_background_fill="transparent",
    block_background_fill_dark="transparent",
    block_border_width="0px",
    block_border_width_dark="0px",
    block_shadow="none",
    block_padding="2px",
    block_label_background_fill="transparent",
    block_title_text_weight="500",
    block_title_text_size="*text_sm",
    layout_gap="12px",
    form_gap_width="12px",
    input_border_width="1px",
    input_radius="8px",
    input_background_fill="*background_fill_primary",
    button_large_radius="8px",
    button_large_text_size="*text_md",
    button_large_text_weight="500",
)
