<module name="b">text</module>
