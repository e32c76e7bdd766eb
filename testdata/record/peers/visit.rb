# Ruby's net/http: a kept connection, a form, a streamed upload. Usage: ruby visit.rb PORT
require 'net/http'
require 'stringio'

Net::HTTP.start('127.0.0.1', ARGV[0].to_i) do |http|
  puts http.get('/?from=ruby').code
  form = Net::HTTP::Post.new('/form')
  form.set_form_data('name' => 'Kim & Lee', 'n' => '2')
  puts http.request(form).body
  upload = Net::HTTP::Put.new('/upload', 'Transfer-Encoding' => 'chunked', 'Content-Type' => 'text/plain')
  upload.body_stream = StringIO.new("line of a file\n" * 500)
  puts http.request(upload).code
  puts http.head('/').code
end
