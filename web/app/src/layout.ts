/** How tiles of one shape fill an area best. Pure arithmetic, no DOM. */

export interface Area {
  width: number;
  height: number;
}

export interface Grid {
  columns: number;
  tileWidth: number;
  tileHeight: number;
}

/**
 * The grid of `count` equal tiles of `ratio` (width by height) that covers most of `area`, `gap` pixels apart.
 * On a tie the wider grid wins. Tiles are whole pixels, and at least one pixel so that a collapsed window is no error.
 */
export function bestGrid(count: number, area: Area, gap: number, ratio: number): Grid {
  let best: Grid = { columns: 1, tileWidth: 1, tileHeight: 1 };
  for (let columns = Math.max(1, count); columns >= 1; columns--) {
    const rows = Math.ceil(count / columns);
    const width = (area.width - gap * (columns - 1)) / columns;
    const height = (area.height - gap * (rows - 1)) / rows;
    const tileWidth = Math.floor(Math.min(width, height * ratio));
    const tileHeight = Math.floor(tileWidth / ratio);
    if (tileWidth > best.tileWidth) best = { columns, tileWidth, tileHeight };
  }
  return best;
}

/** Shapes a tile may take, the preferred one first; a tall window also takes squarer and upright ones. */
const WIDE = [16 / 9, 4 / 3];
const TALL = [4 / 3, 1, 3 / 4];
/** Another shape must cover this much more of the area to be worth cropping the picture for. */
const WORTH_CROPPING = 1.12;

/** The best grid over the shapes that suit the area. */
export function galleryGrid(count: number, area: Area, gap: number): Grid {
  const shapes = area.height > area.width ? TALL : WIDE;
  return shapes
    .map((ratio) => bestGrid(count, area, gap, ratio))
    .reduce((best, grid) => (cover(grid) > cover(best) * WORTH_CROPPING ? grid : best));
}

function cover({ tileWidth, tileHeight }: Grid): number {
  return tileWidth * tileHeight;
}
