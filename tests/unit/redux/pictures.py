"""Two quite ordinary sources, drawn rather than stored."""

import torch
from PIL import Image, ImageDraw, ImageFilter


def beach() -> Image.Image:
    """Return a bright scene: sky, sun, sea, sand; 640 x 480."""
    down = torch.linspace(0, 1, 480)[:, None, None]
    across = torch.linspace(0, 1, 640)[None, :, None]
    sky = torch.tensor([90, 150, 220]) + down * torch.tensor([120, 70, -20])
    sea = torch.tensor([20, 90, 140]) + down * 40 + 10 * torch.sin(40 * across)
    sand = torch.tensor([215, 185, 140]) + 0 * down
    scene = torch.where(down < 0.5, sky, torch.where(down < 0.8 + 0.05 * torch.sin(5 * across), sea, sand))
    picture = Image.fromarray(scene.clamp(0, 255).to(torch.uint8).numpy())
    ImageDraw.Draw(picture).ellipse((440, 60, 500, 120), fill=(255, 240, 190))
    return picture.filter(ImageFilter.GaussianBlur(2))


def portrait() -> Image.Image:
    """Return a darker scene: a face above red clothes before a wall; 480 x 640."""
    down = torch.linspace(0, 1, 640)[:, None, None]
    across = torch.linspace(0, 1, 480)[None, :, None]
    wall = torch.tensor([60, 90, 60]) + across * torch.tensor([50, -30, 10]) + down * torch.tensor([20, 30, 0])
    picture = Image.fromarray(wall.clamp(0, 255).to(torch.uint8).numpy())
    draw = ImageDraw.Draw(picture)
    draw.ellipse((140, 120, 340, 400), fill=(205, 160, 130))
    draw.pieslice((130, 100, 350, 300), 180, 360, fill=(60, 35, 20))
    draw.rectangle((80, 430, 400, 640), fill=(120, 30, 40))
    for left in (180, 270):
        draw.ellipse((left, 230, left + 30, 250), fill=(30, 20, 20))
    return picture.filter(ImageFilter.GaussianBlur(3))
