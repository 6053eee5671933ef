# Add a column with the class to a CSV whose columns are named as in the API.
library(httr2) # and jsonlite

url <- request("http://localhost:3000")
names <- names(resp_body_json(req_perform(req_url_path(url, "static/example.json"))))
table <- read.csv("model/iris.csv", check.names = FALSE)
starts <- seq(1, nrow(table), by = 12787) # this many fit in a body
for (start in starts) {
  rows <- start:min(start + 12787 - 1, nrow(table))
  batch <- req_url_path(url, "predict") |> req_body_json(table[rows, names])
  table[rows, "predicted"] <- unlist(resp_body_json(req_perform(batch))$return)
}
write.csv(table, "predicted.csv", row.names = FALSE)
