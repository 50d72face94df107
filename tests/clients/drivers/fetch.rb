# One GET with Net::HTTP; ends with 0 only for a 200.
require "net/http"

answer = Net::HTTP.get_response(URI(ENV["BASE"] + "/thing"))
puts "#{answer.code} #{answer.body}"
exit answer.code == "200"
