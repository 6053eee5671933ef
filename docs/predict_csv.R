# Add a column with the predicted class to a CSV.
library(httr2) # and jsonlite

url <- request("http://localhost:3000")
info <- resp_body_json(req_perform(req_url_path(url, "static/model-info.json")))
table <- read.csv("model/iris.csv", check.names = FALSE)
# In the order of the API's fields.
columns <- c("sepalLengthCm", "sepalWidthCm", "petalLengthCm", "petalWidthCm")
samples <- setNames(table[columns], sapply(info$features, function(feature) feature$name))
starts <- seq(1, nrow(table), by = 12787) # this many fit in a body
for (start in starts) {
  rows <- start:min(start + 12787 - 1, nrow(table))
  batch <- req_url_path(url, "predict") |> req_body_json(samples[rows, ])
  labels <- as.integer(unlist(resp_body_json(req_perform(batch))$return))
  table[rows, "predicted"] <- unlist(info$classes)[labels + 1]
}
write.csv(table, "predicted.csv", row.names = FALSE)
