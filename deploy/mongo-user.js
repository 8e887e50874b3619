// Runs once, when the data folder is new: the user that Headrace's services log in as.
const fs = require("fs");

db.getSiblingDB("headrace").createUser({
  user: "headrace",
  pwd: fs.readFileSync("/run/secrets/mongo_password", "utf8").trim(),
  roles: [{ role: "readWrite", db: "headrace" }],
});
