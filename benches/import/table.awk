# Reads samples (TOOL [IMAGE] SECONDS PROCESSOR KIB) and prints a table: medians, the spread, and
# what strata takes of each tool's time.

{
  at = NF - 2; row = NF > 4 ? $1 " " $2 : $1
  if (!(row in n)) rows[++count] = row
  wall[row, ++n[row]] = $at; busy[row, n[row]] = $(at + 1)
  if ($NF > peak[row]) peak[row] = $NF
}

# The value at the given part of the sorted samples of a row.
function rank(values, row, part,    i, j, k, sorted, kept) {
  for (i = 1; i <= n[row]; i++) {
    kept = values[row, i]
    for (j = i; j > 1 && sorted[j - 1] > kept; j--) sorted[j] = sorted[j - 1]
    sorted[j] = kept
  }
  k = int(n[row] * part + 0.999999); return sorted[k < 1 ? 1 : k]
}

# The limit is half of the other tool's time, and 96 MiB.
function verdict(value, most) { return value <= most ? "met" : "MISSED" }

END {
  form = "%-14s %8s %15s %9s %9s %12s %12s\n"
  printf form, "TOOL", "MEDIAN", "(MIN TO MAX)", "CPU", "PEAK", "STRATA", "STRATA CPU"
  for (i = 1; i <= count; i++) {
    row = rows[i]; ours = row ~ /usr$/ ? "strata usr" : "strata image"
    spread = sprintf("(%.2f to %.2f)", rank(wall, row, 0), rank(wall, row, 1))
    ratio = rank(wall, ours, 0.5) / rank(wall, row, 0.5); cpu = rank(busy, ours, 0.5) / rank(busy, row, 0.5)
    mib = peak[row] / 1024
    printf form, row, sprintf("%.2f s", rank(wall, row, 0.5)), spread, sprintf("%.2f s", rank(busy, row, 0.5)),
      mib ? sprintf("%.0f MiB", mib) : "-",
      row == ours ? verdict(mib, 96) : sprintf("%.2fx %s", ratio, verdict(ratio, 0.5)),
      row == ours ? "" : sprintf("%.2fx", cpu)
  }
}
