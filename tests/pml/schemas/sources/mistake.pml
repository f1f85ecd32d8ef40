<module>
  text <b>bold</b>
</module>
